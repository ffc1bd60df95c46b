import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels.packed.sixteen import SPARE, pack_within, pair_of_ranks, scan_row

SEEDS, SIZES, MOST = st.integers(0, 2**32 - 1), st.integers(1, 100), st.sampled_from([1, 9, 2**31 - 1])


def drawn(seed, size, most):
    return np.random.default_rng(seed).integers(0, most, size, dtype=np.uint32, endpoint=True)


@settings(max_examples=50, deadline=None)
@given(SEEDS, SIZES, MOST, st.integers(0, 99))
def test_two_neighbouring_ranks_are_those_of_sorting(seed, size, most, rank):
    numbers, rank = drawn(seed, size, most), min(rank, size - 1)
    packed = np.full(size + SPARE, 7, np.uint32)
    packed[:size] = numbers
    ordered = np.sort(numbers)
    assert pair_of_ranks(packed, size, rank) == (ordered[rank], ordered[min(rank + 1, size - 1)])


@settings(max_examples=50, deadline=None)
@given(SEEDS, SIZES, MOST)
def test_numbers_within_an_interval_are_packed_in_order(seed, size, most):
    numbers, packed = drawn(seed, size, most), np.zeros(size + SPARE, np.uint32)
    low, high = np.sort(drawn(seed + 1, 2, most))
    below, found = pack_within(numbers, low, high, packed)
    assert below == np.count_nonzero(numbers < low)
    assert packed[:found].tolist() == numbers[(numbers >= low) & (numbers <= high)].tolist()


@settings(max_examples=50, deadline=None)
@given(SEEDS, SIZES, MOST)
def test_a_scan_strips_signs_and_raises_maxima(seed, size, most):
    signs = drawn(seed + 1, size, 1) << np.uint32(31)
    numbers, before = drawn(seed, size, most), drawn(seed + 2, size, most)
    magnitudes, maxima, packed = np.zeros(size, np.uint32), before.copy(), np.zeros(size + SPARE, np.uint32)
    low, high = np.sort(drawn(seed + 3, 2, most))
    below, found, largest = scan_row(numbers | signs, magnitudes, maxima, (low, high), packed)
    assert magnitudes.tolist() == numbers.tolist()
    assert maxima.tolist() == np.maximum(before, numbers).tolist()
    assert (below, largest) == (np.count_nonzero(numbers < low), numbers.max())
    assert packed[:found].tolist() == numbers[(numbers >= low) & (numbers <= high)].tolist()
