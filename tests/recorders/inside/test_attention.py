"""Attention patterns: those of transformers' eager attention, in all families, however a pass is cut."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.model import MODEL_TYPES
from olmo_dynamics.names import Site
from olmo_dynamics.quantities import of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.inside import tiles
from olmo_dynamics.recorders.inside.attention import AttentionRecorder
from olmo_dynamics.recorders.inside.largest import Largest, needed, quantile
from tests.model.drawing import configs, random_model, random_tokens, tiny_config
from tests.recorders.inside.material import attention_in_transformers, of_layer, padded, recorded
from tests.recorders.material import Tokens, by_name, shown, started


def by_formula(layer, lengths):
    """Every array of one layer, [heads], from transformers' logits, weights and values in float64."""
    heads = range(layer["weights"].shape[1])
    rows = [[_window(layer, row, length, head) for row, length in enumerate(lengths)] for head in heads]
    return {name: np.array([_together(name, windows) for windows in rows]) for name in rows[0][0]} | {
        "value_norm_ratio": np.array([_value_ratio(layer, lengths, head) for head in heads])
    }


def _window(layer, row, length, head):
    weights = layer["weights"][row, head, :length, :length]
    visible = layer["visible"][row, head, :length, :length] == 1
    logits = layer["logits"][row, head, :length, :length]
    back = np.arange(length)[:, None] - np.arange(length)
    entropy = -np.array([sum(p * math.log(p) for p in each if p > 0) for each in weights])
    several = visible.sum(1) > 1
    on_first = weights[:, 0]
    long = on_first[:64].mean(keepdims=True) if length >= 64 else np.zeros(0)
    return {
        "max_logit": logits[visible],
        "row_max_mean": np.where(visible, logits, -np.inf).max(1),
        "logit_quantile_999": logits[visible],
        "entropy": entropy,
        "entropy_normalised": entropy[several] / np.log(visible.sum(1)[several]),
        "sink_mass": on_first[1:],
        "sink_rate": on_first[1:].mean(keepdims=True) > 0.3 if length > 1 else np.zeros(0),
        "sink_mass_64": long,
        "sink_rate_64": long > 0.3,
        "previous_token_mass": np.diagonal(weights, -1),
        "mean_distance": (weights * back).sum(1),
    }


def _together(name, windows):
    values = np.concatenate([each[name] for each in windows])
    if name == "max_logit":
        return values.max()
    if name == "logit_quantile_999":
        return np.quantile(values, 0.999)
    return values.mean() if len(values) else math.nan


def _value_ratio(layer, lengths, head):
    norms = [np.linalg.norm(layer["value"][row, head, :length], axis=-1) for row, length in enumerate(lengths)]
    return np.mean([each[0] for each in norms]) / np.concatenate([each[1:] for each in norms]).mean()


def assert_like_transformers(config, lengths, positions, **compute):
    model = random_model(config)
    ids = random_tokens(config, len(lengths), positions)
    found = recorded(model, padded(ids, lengths), AttentionRecorder(), **compute)
    for layer, theirs in enumerate(attention_in_transformers(model, ids)):
        ours = of_layer(found, layer)
        for name, expected in by_formula(theirs, lengths).items():
            np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-5, err_msg=f"{name} of {layer}")
        assert ours.keys() == {each.name for each in of_group("attention")}
        beside = {"status"} | (set() if max(lengths) >= 64 else {"sink_mass_64", "sink_rate_64"})
        undefined = np.isnan([ours[name] for name in ours if name not in beside]).any(axis=0)
        np.testing.assert_array_equal(ours["status"], np.where(undefined, Status.DEGENERATE, Status.MEASURED))


@settings(max_examples=6)
@given(configs(), st.sampled_from([1, 3]))
def test_all_families_are_as_in_transformers(config, at_once):
    assert_like_transformers(config, [13, 5, 1, 13], 13, sequences_at_once=at_once)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_windows_of_64_tokens_are_as_in_transformers(family):
    assert_like_transformers(tiny_config(family), [64, 40, 64], 64)


@pytest.mark.parametrize("family", ["olmo2", "olmo3"])
def test_tiles_threads_and_batches_change_nothing(family, monkeypatch):
    config = tiny_config(family)
    model, probe = random_model(config), padded(random_tokens(config, 5, 20), [20, 20, 7, 1, 20])
    whole = recorded(model, probe, AttentionRecorder(), threads=1)
    for key, values in recorded(model, probe, AttentionRecorder(), threads=2).items():
        np.testing.assert_array_equal(values, whole[key])
    for elements, at_once in ((1, 1), (200, 5), (1000, 2)):
        monkeypatch.setattr(tiles, "TILE", elements)
        for key, values in recorded(model, probe, AttentionRecorder(), sequences_at_once=at_once).items():
            np.testing.assert_allclose(values, whole[key], rtol=1e-6, atol=1e-6, err_msg=str(key))


def observed(queries, keys, values, mask=None, window=None, heads=1):
    """The records of a layer of given queries, keys and values."""
    queries = torch.as_tensor(queries)
    probe = Tokens(np.zeros(queries.shape[:2], int), 1, mask=mask)
    config = SimpleNamespace(heads=heads, head_dim=queries.shape[2] // heads, window=lambda layer: window)
    recorder = started(AttentionRecorder(), probe, config=config)
    beside = {"key": torch.as_tensor(keys), "value": torch.as_tensor(values)}
    recorder.observe(shown(Site.QUERY_ROTATED, 0, queries, mask, beside=beside, window=window))
    return by_name(recorder.finish_layer(0))


def test_uniform_attention_over_64_positions():
    found = observed(torch.zeros(2, 64, 4), torch.ones(2, 64, 4), torch.ones(2, 64, 4))
    assert found["entropy"] == pytest.approx(3.2057531, abs=1e-6)
    assert found["entropy"] == pytest.approx(math.lgamma(65) / 64, abs=1e-6)
    assert found["entropy_normalised"] == pytest.approx(1)
    assert found["sink_mass"] == pytest.approx(0.0594268, abs=1e-6)
    assert found["sink_mass_64"] == pytest.approx(0.0741233, abs=1e-6)
    assert (found["sink_rate"], found["sink_rate_64"], found["max_logit"]) == (0, 0, 0)
    assert found["mean_distance"] == pytest.approx(63 / 4)
    assert found["previous_token_mass"] == pytest.approx(np.mean(1 / np.arange(2, 65)))
    assert found["value_norm_ratio"] == pytest.approx(1)
    assert found["status"] == Status.MEASURED


def test_all_attention_on_the_first_position_is_a_sink():
    keys = torch.zeros(1, 64, 1)
    keys[:, 0] = 500.0
    found = observed(torch.ones(1, 64, 1), keys, torch.cat((torch.ones(1, 1, 1), torch.full((1, 63, 1), 4.0)), 1))
    assert (found["sink_mass"], found["sink_rate"], found["sink_rate_64"], found["entropy"]) == (1, 1, 1, 0)
    assert (found["max_logit"], found["row_max_mean"], found["value_norm_ratio"]) == (500, 500, 0.25)


def test_a_window_of_one_token_has_no_entropy_to_normalise():
    found = observed(torch.ones(1, 6, 1), torch.ones(1, 6, 1), torch.zeros(1, 6, 1), window=1)
    assert (found["entropy"], found["sink_mass"], found["previous_token_mass"], found["mean_distance"]) == (0, 0, 0, 0)
    assert np.isnan([found["entropy_normalised"], found["sink_mass_64"], found["value_norm_ratio"]]).all()
    assert found["status"] == Status.DEGENERATE


def test_windows_of_fewer_than_64_tokens_make_no_head_degenerate():
    found = observed(torch.zeros(2, 63, 4), torch.ones(2, 63, 4), torch.ones(2, 63, 4))
    assert np.isnan([found["sink_mass_64"], found["sink_rate_64"]]).all() and found["status"] == Status.MEASURED


def test_a_head_with_nan_is_not_finite_and_the_others_are():
    queries = torch.ones(1, 4, 4)
    queries[0, 2, 0] = math.nan
    found = observed(queries, torch.ones(1, 4, 4), torch.ones(1, 4, 4), heads=2)
    assert found["status"].tolist() == [Status.NONFINITE, Status.MEASURED]
    assert np.isnan(found["entropy"]).tolist() == [True, False]


@settings(max_examples=15)
@given(st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.999]), st.integers(1, 6), st.integers(0, 9))
def test_a_selection_gives_the_exact_quantile_in_whatever_order_parts_come(count, level, parts, seed):
    numbers = np.random.default_rng(seed).normal(size=(2, count)).round(1).astype(np.float32)
    rows = [torch.tensor(each)[None, :, None] for each in np.array_split(numbers, parts, axis=1) if each.size]
    selections = [Largest(needed(count, level), heads=2) for _ in range(2)]
    for place, row in enumerate(rows):
        selections[place % 2].offer(row)
    selections[1].merge(selections[0])
    for head, expected in enumerate(np.quantile(numbers.astype(np.float64), level, axis=1)):
        assert quantile(selections[1].of_head(head), count, level) == pytest.approx(expected, abs=1e-12)
