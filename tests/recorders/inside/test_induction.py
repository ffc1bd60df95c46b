"""Induction on windows that are read twice, and the in-context score: known patterns, and transformers' numbers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings

from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.recorders.inside.in_context import InContextRecorder, positions_compared
from olmo_dynamics.recorders.inside.induction import InductionRecorder, repeated_windows
from tests.model.drawing import configs, random_model, random_tokens, same_in_transformers, tiny_config
from tests.recorders.inside.material import attention_in_transformers, padded, recorded
from tests.recorders.material import Tokens, by_name, everything, shown, started


def matched(queries, keys, length):
    """The score of one head with these queries and keys, in one window."""
    config = SimpleNamespace(head_dim=queries.shape[1], max_positions=2 * length, heads=1)
    recorder = started(InductionRecorder(), Tokens(np.zeros((1, 2 * length), int), 1), config=config)
    recorder.observe(shown(Site.QUERY_ROTATED, 0, queries[None], beside={"key": keys[None]}))
    return by_name(recorder.finish_layer(0))["prefix_matching"]


def test_a_perfect_pattern_scores_one_and_uniform_attention_one_over_the_keys_seen():
    length = 20
    keys = torch.eye(2 * length)
    queries = torch.zeros(2 * length, 2 * length)
    queries[range(length, 2 * length), range(1, length + 1)] = 1e4
    assert matched(queries, keys, length) == pytest.approx(1)
    uniform = np.mean(1 / np.arange(length + 1, 2 * length + 1))
    assert matched(torch.zeros_like(queries), keys, length) == pytest.approx(uniform)


@torch.no_grad()
def losses_in_transformers(model, token_ids):
    """The loss of each token at its own position, NaN at the first."""
    logits = same_in_transformers(model)(token_ids).logits.double().numpy()[:, :-1]
    chosen = np.take_along_axis(logits, token_ids.numpy()[:, 1:, None], axis=-1)[..., 0]
    return np.pad(scipy.special.logsumexp(logits, axis=-1) - chosen, ((0, 0), (1, 0)), constant_values=np.nan)


@settings(max_examples=4)
@given(configs())
def test_all_families_are_as_in_transformers(config):
    config = replace(config, max_positions=22)
    model = random_model(config)
    main = padded(random_tokens(config, 3, 20), [20, 20, 5])
    found = recorded(model, main, InductionRecorder(), InContextRecorder(), columns_at_once=50)
    ids = torch.tensor(repeated_windows(11, main.tokenizer_size, (), 0).token_ids)
    for layer, theirs in enumerate(attention_in_transformers(model, ids)):
        expected = np.mean([theirs["weights"][:, :, i, i - 10] for i in range(11, 22)], axis=(0, 1))
        np.testing.assert_allclose(found["prefix_matching", ("layer", layer)], expected, rtol=1e-4, atol=1e-6)
    losses = losses_in_transformers(model, ids)
    np.testing.assert_allclose(found["first_half_loss",], losses[:, 1:11].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["second_half_loss",], losses[:, 11:].mean(), rtol=1e-5)
    losses = losses_in_transformers(model, torch.tensor(main.token_ids))
    np.testing.assert_allclose(found["in_context_score",], (losses[:2, 8] - losses[:2, 2]).mean(), rtol=1e-3, atol=1e-5)


def test_threads_change_nothing():
    config = tiny_config("olmo3")
    model, main = random_model(config), padded(random_tokens(config, 9, 40), [40] * 9)
    one, two = (recorded(model, main, InductionRecorder(), InContextRecorder(), threads=each) for each in (1, 2))
    assert one.keys() == two.keys()
    for key, values in one.items():
        np.testing.assert_array_equal(values, two[key])


def test_windows_hold_no_special_id_and_are_the_same_every_time():
    one, other = (repeated_windows(50, 8, (1, 3, 99), 0).token_ids for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one[:, :50], one[:, 50:])
    assert set(one.ravel()) == {0, 2, 4, 5, 6, 7}
    main = Tokens(np.zeros((1, 3), int), 8)
    main.special_ids = (1, 3, 99)
    config = SimpleNamespace(max_positions=101, vocab_size=90)
    np.testing.assert_array_equal(started(InductionRecorder(), main, config=config).probe().token_ids, one)


@pytest.mark.parametrize(
    ("window", "expected"),
    [(2048, (50, 500)), (512, (50, 500)), (511, (51, 499)), (14, (1, 2)), (13, None), (2, None)],
)
def test_positions_of_the_in_context_score(window, expected):
    assert positions_compared(window) == expected


def test_short_windows_have_no_in_context_score():
    recorder = started(InContextRecorder(), Tokens(np.zeros((2, 9), int), 4))
    recorder.observe(shown(Site.LOGITS, NO_LAYER, torch.zeros(2, 9, 4)))
    assert everything(recorder) == []
    assert recorder.attributes() == {"early_position": -1, "late_position": -1}
