import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels.packed.float_tokens import FloatTokenSums, add_float_tokens
from olmo_dynamics.recorders.kernels.tokens import TokenStats


def added(values, rows):
    sums, tokens = FloatTokenSums.zeros(values.shape[1]), TokenStats.zeros(len(values), np.dtype(np.uint32))
    kept = np.zeros((len(rows), values.shape[1]), np.uint32)
    add_float_tokens(values.view(np.uint32), rows, kept, sums, tokens)
    return sums, tokens, kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 200), st.sampled_from([1e-30, 1.0, 1e30]))
def test_everything_is_as_numpy_finds_it(seed, tokens, width, size):
    rng = np.random.default_rng(seed)
    of_tokens = rng.lognormal(sigma=rng.choice([0, 3]), size=(tokens, 1))
    values = (rng.standard_normal((tokens, width)) * of_tokens * size + rng.choice([0, 5]) * size).astype(np.float32)
    rows = np.flatnonzero(rng.random(tokens) < 0.8)
    sums, found, kept = added(values, rows)
    exact = values[rows].astype(np.float64)
    magnitudes = np.sort(np.abs(values[rows]), axis=1)
    middle = magnitudes[:, [-1, (width - 1) // 2, width // 2]]
    assert np.array_equal(found.magnitudes[rows].view(np.float32), middle)
    assert np.array_equal(kept.view(np.float32), np.abs(values[rows]))
    assert np.array_equal(sums.feature_maxima.view(np.float32), np.abs(values[rows]).max(axis=0, initial=0))
    assert found.squares[rows] == pytest.approx((exact**2).sum(axis=1), rel=1e-12)
    assert sums.feature_squares == pytest.approx((exact**2).sum(axis=0), rel=1e-12)
    absolutes, medians = np.abs(exact).sum(axis=1), middle[:, 1:].astype(np.float64).mean(axis=1)
    ratios = np.sqrt(width * (exact**2).sum(axis=1)) / absolutes, middle[:, 0] / medians
    assert sums.of_tokens == pytest.approx([absolutes.sum(), *(each.sum() for each in ratios)], rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 200), st.sampled_from([0.0, 1.0, 1e4]))
def test_moments_are_those_about_the_mean(seed, tokens, width, mean):
    values = (np.random.default_rng(seed).standard_normal((tokens, width)) + mean).astype(np.float32)
    sums, _, _ = added(values, np.arange(tokens))
    deviations = values.astype(np.float64) - values.astype(np.float64).mean()
    powers = [(deviations**power).sum() for power in (2, 3, 4)]
    assert sums.moments[:2] == pytest.approx([values.size, values.astype(np.float64).mean()], rel=1e-12, abs=1e-12)
    scale = [np.abs(deviations**power).sum() for power in (2, 3, 4)]
    assert (np.abs(sums.moments[2:] - powers) <= 1e-10 * np.array(scale)).all()


def test_a_token_with_nan_has_no_ratios():
    values = np.array([[1.0, np.nan, 2.0], [1.0, 2.0, 4.0]], np.float32)
    sums, tokens, _ = added(values, np.array([0, 1]))
    assert np.isnan(sums.of_tokens).all() and np.isnan(sums.moments[1:]).all()
    assert tokens.magnitudes[1].view(np.float32).tolist() == [4.0, 2.0, 2.0]
