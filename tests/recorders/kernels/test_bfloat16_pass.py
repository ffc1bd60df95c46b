import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels.accumulators import CodeCounts
from olmo_dynamics.recorders.kernels.bfloat16.code_rank import middle_codes
from olmo_dynamics.recorders.kernels.bfloat16.token_pass import CodeSums, pass_over_codes
from olmo_dynamics.recorders.kernels.tokens import TokenStats


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 0x7FFF), st.floats(0.2, 9), st.integers(0, 0x7FFF)
)
def test_middle_codes_are_those_of_a_sort_from_any_guess(seed, size, most, skew, guess):
    magnitudes = (np.random.default_rng(seed).random(size) ** skew * most).astype(np.uint16)
    lower, upper, density = middle_codes(magnitudes, np.int64(magnitudes.max()), np.int64(guess), 1.0)
    ordered = np.sort(magnitudes)
    assert (lower, upper) == (ordered[(size - 1) // 2], ordered[size // 2])
    assert density > 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.integers(1, 70), st.sampled_from([0.0, 1e-39, 1.0, 1e30]))
def test_both_sets_of_codes_are_counted_whole_and_the_table_is_left_clean(seed, tokens, width, scale):
    generator = torch.Generator().manual_seed(seed)
    codes = (torch.randn(tokens, width, generator=generator) * scale).bfloat16().view(torch.uint16).numpy()
    first, rest = np.arange(0, tokens, 7), np.setdiff1d(np.arange(tokens), np.arange(0, tokens, 7))
    for _ in range(2):  # by the same table
        sums, stats = CodeSums.zeros(width), TokenStats.zeros(tokens, codes.dtype)
        found = pass_over_codes(codes, first, rest, sums, stats)
        for rows, tally, maxima in zip((first, rest), found, sums.maxima, strict=True):
            counted = CodeCounts()
            counted.take(tally)
            np.testing.assert_array_equal(counted.counts, np.bincount(codes[rows].reshape(-1), minlength=1 << 16))
            np.testing.assert_array_equal(maxima, (codes[rows] & 0x7FFF).max(axis=0))
