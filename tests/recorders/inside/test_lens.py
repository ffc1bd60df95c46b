"""The logit lens: equal to transformers with hooks on its blocks, however the pass is cut."""

import re

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.inside.lens import LensRecorder
from olmo_dynamics.recorders.inside.lens_sample import LensSample
from tests.model.drawing import configs, random_model, random_tokens, same_in_transformers, tiny_config
from tests.recorders.inside.material import padded, recorded


@torch.no_grad()
def lens_in_transformers(model, token_ids):
    """Logits after every block, [layers, batch, positions, vocabulary] in float64, by hooks."""
    theirs, kept = same_in_transformers(model), []
    for block in theirs.base_model.layers:
        block.register_forward_hook(lambda block, _, out: kept.append(out[0] if isinstance(out, tuple) else out))
    theirs(token_ids)
    norm = getattr(theirs.base_model, "final_layer_norm", None) or theirs.base_model.norm
    return np.stack([theirs.lm_head(norm(each)).double().numpy() for each in kept])


def by_formula(logits, probe, sample, layer, domain):
    """The arrays of one layer and domain, by scipy."""
    inside = probe.domain[sample.rows] == domain
    rows, positions = sample.rows[inside], sample.positions[inside]
    z, final = logits[layer, rows, positions], logits[-1, rows, positions]
    targets = probe.token_ids[rows, positions + 1]
    known = slice(0, probe.tokenizer_size)
    p, q = scipy.special.softmax(final[:, known], axis=1), scipy.special.softmax(z[:, known], axis=1)
    return {
        "cross_entropy": (scipy.special.logsumexp(z, axis=1) - z[np.arange(len(z)), targets]).mean(),
        "kl_to_final": scipy.special.rel_entr(p, q).sum(1).mean(),
        "top1_agreement": (z[:, known].argmax(1) == final[:, known].argmax(1)).mean(),
        "token_count": inside.sum(),
    }


def assert_like_transformers(config, **compute):
    model, ids = random_model(config), random_tokens(config, 4, 9)
    probe = padded(ids, [9, 9, 4, 9], [0, 0, 1, 1])
    probe.tokenizer_size = config.vocab_size - 5
    probe.token_ids = np.minimum(probe.token_ids, probe.tokenizer_size - 1)
    found = recorded(model, probe, LensRecorder(), **compute)
    logits, sample = lens_in_transformers(model, torch.tensor(probe.token_ids)), LensSample.of(probe.mask, 512)
    for layer in range(config.layers):
        for number, domain in enumerate(probe.domains):
            at = (("domain", domain), ("layer", layer))
            for name, expected in by_formula(logits, probe, sample, layer, number).items():
                np.testing.assert_allclose(found[name, *at], expected, rtol=1e-4, atol=1e-5, err_msg=f"{name} {at}")
            assert found["status", *at] == Status.MEASURED


@settings(max_examples=6)
@given(configs(), st.sampled_from([1, 3]), st.sampled_from([7, 1000]))
def test_all_families_are_as_in_transformers(config, at_once, columns):
    assert_like_transformers(config, sequences_at_once=at_once, columns_at_once=columns)


def test_the_last_block_is_the_final_prediction_and_a_domain_without_tokens_is_not_measured():
    config = tiny_config()
    probe = padded(random_tokens(config, 3, 9), [9, 9, 1], [0, 0, 1])
    found = recorded(random_model(config), probe, LensRecorder())
    last = (("domain", "code"), ("layer", config.layers - 1))
    assert found["kl_to_final", *last] == pytest.approx(0, abs=1e-9)
    assert found["top1_agreement", *last] == 1
    assert found["status", ("domain", "prose"), ("layer", 0)] == Status.NOT_MEASURED
    assert ("cross_entropy", ("domain", "prose"), ("layer", 0)) not in found


def test_a_large_probe_is_looked_at_by_evenly_spaced_tokens():
    mask = np.ones((20, 101), dtype=bool)
    sample = LensSample.of(mask, 512)
    places = sample.rows * 100 + sample.positions
    assert (len(sample), places[0], places[-1]) == (512, 0, 1999)
    assert set(np.diff(places)) == {3, 4}
    assert len(LensSample.of(mask[:5], 512)) == 500


def test_threads_change_nothing():
    config = tiny_config("olmo")
    probe = padded(random_tokens(config, 9, 70), [70] * 9)
    one, two = (recorded(random_model(config), probe, LensRecorder(), threads=threads) for threads in (1, 2))
    assert one.keys() == two.keys()
    for key, values in one.items():
        np.testing.assert_array_equal(values, two[key])
    assert one["token_count", ("domain", "code"), ("layer", 0)] == 512


@pytest.mark.parametrize("tokens", [511, 0, "600", 600.0])
def test_too_few_tokens_are_refused(tokens):
    message = f"lens tokens must be a whole number of at least 512 (got {tokens!r})"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        LensRecorder(tokens)
