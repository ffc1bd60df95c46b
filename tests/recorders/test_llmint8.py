import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders import llmint8_rule, outlier_features


def places(tokens, threshold=6.0):
    """Maxima and shares of [places, tokens, features]."""
    magnitude = np.abs(tokens)
    return magnitude.max(axis=1), (magnitude >= threshold).mean(axis=1)


def test_a_feature_must_reach_a_quarter_of_places_and_six_percent_of_tokens():
    tokens = np.zeros((8, 100, 4))
    tokens[:2, :6, 0] = -7.0  # 25 % of places, 6 % of tokens: an outlier, on both edges
    tokens[:1, :, 1] = 9.0  # one place only
    tokens[:, :5, 2] = 9.0  # everywhere, but in 5 % of tokens
    tokens[:, :, 3] = 5.999
    found = llmint8_rule(*places(tokens))
    np.testing.assert_array_equal(found.features, [0])
    assert (found.count, found.layer_share, found.token_share, found.magnitude) == (1, 0.25, 0.06, 7.0)


def test_summaries_are_over_outlier_features():
    tokens = np.zeros((4, 10, 3))
    tokens[:, :5, 0] = 8.0
    tokens[:2, :, 2] = 20.0
    found = llmint8_rule(*places(tokens))
    np.testing.assert_array_equal(found.features, [0, 2])
    assert (found.layer_share, found.token_share, found.magnitude) == (0.75, 0.75, 14.0)


def test_no_outlier_has_no_summary():
    found = llmint8_rule(np.zeros((2, 3)), np.zeros((2, 3)))
    assert found.count == 0
    assert np.isnan([found.layer_share, found.token_share, found.magnitude]).all()


def test_no_places_have_no_outliers():
    assert llmint8_rule(np.zeros((0, 3)), np.zeros((0, 3))).count == 0


@pytest.mark.parametrize(("threshold", "expected"), [(6.0, [1]), (3.0, [0, 1]), (100.0, [])])
def test_other_thresholds(threshold, expected):
    tokens = np.array([[[4.0, 50.0]], [[5.0, 60.0]]])
    found = llmint8_rule(*places(tokens, threshold), threshold=threshold)
    np.testing.assert_array_equal(found.features, expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_stricter_shares_never_add_features(seed, layer_share, token_share):
    fraction = np.random.default_rng(seed).random((4, 10)) ** 4
    strict = outlier_features(fraction > 0.2, fraction, layer_share, token_share)
    loose = outlier_features(fraction > 0.2, fraction, layer_share / 2, token_share / 2)
    assert set(strict) <= set(loose)
