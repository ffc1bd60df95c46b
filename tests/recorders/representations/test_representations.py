"""Representations: every array as in float64 from transformers' hidden states, however a pass is cut."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Site
from olmo_dynamics.quantities import of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.representations.feature_spread import spread
from olmo_dynamics.recorders.representations.representation_recorder import RepresentationRecorder, check_sites, measure
from olmo_dynamics.recorders.representations.token_sample import token_sample
from tests.model.drawing import configs, random_model, random_tokens, same_in_transformers, tiny_config
from tests.recorders.inside.material import padded, recorded
from tests.recorders.material import Tokens, by_name, shown, started
from tests.recorders.representations.by_formula import everything, mean_cosine


@torch.no_grad()
def streams_in_transformers(model, token_ids):
    """The stream leaving every block, [batch, positions, width], by hooks."""
    theirs, kept = same_in_transformers(model), []
    for block in theirs.base_model.layers:
        block.register_forward_hook(lambda block, _, out: kept.append(out[0] if isinstance(out, tuple) else out))
    theirs(token_ids)
    return [each.double().numpy() for each in kept]


def assert_like_transformers(config, lengths, positions, tokens, **compute):
    model, ids = random_model(config), random_tokens(config, len(lengths), positions)
    probe = padded(ids, lengths)
    found = recorded(model, probe, RepresentationRecorder(tokens), **compute)
    rows, places = np.nonzero(probe.mask)
    kept = np.linspace(0, len(rows) - 1, min(tokens, len(rows))).round().astype(int)
    for layer, stream in enumerate(streams_in_transformers(model, ids)):
        expected = everything(stream[rows[kept], places[kept]])
        at = (("layer", layer), ("site", "residual_out"))
        assert found["status", *at] == Status.MEASURED
        for name, values in expected.items():
            scale = expected["gram_norm"] if name == "gram_sketch" else np.nanmax(np.abs(values))
            np.testing.assert_allclose(
                found[name, *at], values, rtol=1e-4, atol=1e-5 * scale, err_msg=f"{name} {layer}"
            )
    assert {key[0] for key in found} == {*expected, "status"} == {each.name for each in of_group("representations")}


@settings(max_examples=6)
@given(configs(), st.sampled_from([1, 3]), st.sampled_from([4, 9, 2048]))
def test_all_families_are_as_in_transformers(config, at_once, tokens):
    assert_like_transformers(config, [13, 5, 1, 13], 13, tokens, sequences_at_once=at_once)


def test_more_pairs_than_components_are_as_in_transformers():
    assert_like_transformers(tiny_config(hidden_size=96), [40, 31, 40, 40], 40, 97)


def test_threads_and_batches_change_nothing():
    config = tiny_config("olmo3")
    model, probe = random_model(config), padded(random_tokens(config, 9, 20), [20] * 8 + [3])
    every = RepresentationRecorder(tokens=95, sites="embedding,attention_output,residual_out,final_norm")
    whole = recorded(model, probe, every, threads=1)
    assert {dict(key[1:])["site"] for key in whole} == {"embedding", "attention_output", "residual_out", "final_norm"}
    for compute in ({"threads": 2}, {"sequences_at_once": 1}, {"sequences_at_once": 4}):
        for key, values in recorded(model, probe, every, **compute).items():
            scale = np.nanmax(np.abs(whole[key]))
            np.testing.assert_allclose(values, whole[key], rtol=1e-5, atol=1e-6 * scale, err_msg=f"{key} {compute}")


def test_a_pass_that_stops_early_has_the_layers_it_passed():
    config = tiny_config()
    model, probe = random_model(config), padded(random_tokens(config, 2, 9), [9, 9])
    early, whole = (recorded(model, probe, RepresentationRecorder(), until=until) for until in (2, None))
    assert {dict(key[1:])["layer"] for key in early} == {0, 1}
    for key, values in early.items():
        np.testing.assert_array_equal(values, whole[key])


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(1, 80), st.integers(0, 99), st.floats(0.1, 100))
def test_numbers_do_not_change_by_rotation_and_scale(tokens, width, seed, scale):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(tokens, width)) * rng.exponential(size=width) + rng.normal(size=width)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    one, other = (spread(torch.tensor(each)) for each in (vectors, scale * vectors @ rotation))
    for name in ("rank_me", "participation_ratio", "anisotropy"):
        assert other[name] == pytest.approx(one[name], rel=1e-6, abs=1e-9), name
    np.testing.assert_allclose(other["eigenvalue"], one["eigenvalue"] * scale**2, rtol=1e-8, atol=1e-8 * scale**2)
    assert 1 - 1e-9 <= one["participation_ratio"] <= min(tokens - 1, width) + 1e-9
    assert one["rank_me"] <= min(tokens, width) * 1.001


def test_orthogonal_vectors_fill_every_dimension():
    found = spread(torch.eye(8) * 3)
    assert found["rank_me"] == pytest.approx(8, rel=1e-5)
    assert found["participation_ratio"] == pytest.approx(7)
    assert found["anisotropy"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found["eigenvalue"][:8], [9 / 7] * 7 + [0], atol=1e-12)


def test_a_massive_feature_drives_anisotropy_to_one_and_is_left_out_of_the_other():
    vectors = np.random.default_rng(0).normal(size=(400, 64))
    clean = mean_cosine(vectors)
    vectors[:, 5] = 900
    found = spread(torch.tensor(vectors))
    assert found["anisotropy"] > 0.999
    assert found["anisotropy_without_massive"] == pytest.approx(mean_cosine(np.delete(vectors, 5, axis=1)))
    assert found["anisotropy_without_massive"] == pytest.approx(clean, abs=0.002)
    assert found["participation_ratio"] > 50  # it is constant, and covariances are centred
    assert found["rank_me"] < 20  # of vectors that are not


def observed(vectors):
    """The records of one window's vectors."""
    probe = Tokens(np.zeros((1, len(vectors)), int), 1)
    recorder = started(RepresentationRecorder(), probe)
    recorder.observe(shown(Site.RESIDUAL_OUT, 0, torch.as_tensor(vectors)[None]))
    return by_name(recorder.finish_layer(0))


def test_a_vector_that_is_not_finite_is_told_apart_from_numbers_that_are_not_defined():
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert observed(vectors)["status"] == Status.MEASURED
    broken = vectors.clone()
    broken[3, 2] = torch.inf
    assert observed(broken) == {"status": Status.NONFINITE}
    few = observed(vectors[:3])
    assert few["status"] == Status.DEGENERATE
    assert np.isnan(few["gram_norm"]) and np.isnan(few["gram_sketch"]).all() and np.isfinite(few["rank_me"])
    same = observed(torch.ones(6, 5))
    assert (same["status"], same["gram_norm"], same["anisotropy"]) == (Status.DEGENERATE, 0, pytest.approx(1))
    assert np.isnan(same["participation_ratio"]) and same["rank_me"] == pytest.approx(1, rel=1e-4)
    assert np.isnan(observed(torch.zeros(6, 5))["anisotropy"])


def test_bfloat16_is_measured_as_its_numbers_are():
    vectors = torch.randn(20, 30, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = everything(vectors.double().numpy())
    for name, values in measure(vectors).items():
        if name != "status":
            np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_sample_is_of_real_tokens_and_the_same_for_every_model():
    probe = padded(torch.zeros(3, 5, dtype=torch.int64), [5, 2, 4])
    recorder = started(RepresentationRecorder(6), probe)
    sample = token_sample(recorder.context, 6)
    np.testing.assert_array_equal(sample.rows, [0, 0, 0, 1, 2, 2])
    np.testing.assert_array_equal(sample.positions, [0, 2, 4, 1, 1, 3])
    assert recorder.attributes() == {"tokens": 6, "seed": 0, "size": 4096, "sites": "residual_out"}


@pytest.mark.parametrize("tokens", [3, -1, "600", 600.0])
def test_too_few_tokens_are_refused(tokens):
    message = f"gram tokens must be a whole number of at least 4 (got {tokens!r})"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        RepresentationRecorder(tokens)


@pytest.mark.parametrize(
    ("sites", "named"), [("residual_ot", "residual_ot"), (["logits"], "logits"), ("", ""), ([], "")]
)
def test_sites_that_hold_no_vectors_are_refused(sites, named):
    with pytest.raises(OptionError, match=rf"^gram sites must be some of embedding, .*, final_norm \(got '{named}'\)"):
        check_sites(sites)
