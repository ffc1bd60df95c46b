import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels import listed_magnitudes
from olmo_dynamics.recorders.kernels.listed_magnitudes import ListedMagnitudes


def listed(*parts):
    found = ListedMagnitudes()
    for part in parts:
        found.add(part)
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 30_000), st.sampled_from([1, 100, 2**32 - 1]))
def test_ranks_are_those_of_sorting(seed, parts, size, most):
    rng = np.random.default_rng(seed)
    numbers = [rng.integers(0, most, size, dtype=np.uint32, endpoint=True) for _ in range(parts)]
    ordered = np.sort(np.concatenate(numbers))
    ranks = [(len(ordered) - 1) // 2, len(ordered) // 2]
    one, others = listed(numbers[0]), listed(*numbers[1:])
    one.order([(size - 1) // 2, size // 2])  # the interval of a part is tried first for all
    one.merge(others)
    assert one.order(ranks).tolist() == ordered[ranks].tolist()
    assert one.order([0, 0]).tolist() == [ordered[0]] * 2
    assert one.order([len(ordered) - 1]).tolist() == [ordered[-1]]


def test_where_a_sample_misleads_everything_is_looked_at(monkeypatch):
    monkeypatch.setattr(listed_magnitudes, "_FEW", 0)
    monkeypatch.setattr(ListedMagnitudes, "_intervals", lambda self, ranks: [(7, 9)])
    numbers = np.arange(100, dtype=np.uint32)
    assert listed(numbers).order([49, 50]).tolist() == [49, 50]


def test_numbers_are_not_read_twice_for_one_interval(monkeypatch):
    monkeypatch.setattr(listed_magnitudes, "_FEW", 0)
    found = listed(np.arange(20_000, dtype=np.uint32))
    found.order([9_999, 10_000])
    looked, gather = [], listed_magnitudes.pack_within

    def gathered(numbers, *rest):
        looked.append(len(numbers))
        return gather(numbers, *rest)

    monkeypatch.setattr(listed_magnitudes, "pack_within", gathered)
    found.add(np.full(3, 10_000, np.uint32))
    assert found.order([10_000]).tolist() == [10_000]
    assert looked == [3]


def test_memory_serves_another_list_once_no_list_holds_it():
    numbers = listed_magnitudes.room_for(20_000)
    at, one, other = numbers.ctypes.data, ListedMagnitudes(), ListedMagnitudes()
    one.add(numbers)
    other.merge(one)
    del one, numbers
    apart = listed_magnitudes.room_for(20_000)
    assert apart.ctypes.data != at
    del other
    assert listed_magnitudes.room_for(20_000).ctypes.data == at
