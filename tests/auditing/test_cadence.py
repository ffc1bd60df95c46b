"""The cadence of saved steps: gaps found, changes followed, nothing invented."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.auditing.cadence import Stretch, find_cadence


@given(
    spacing=st.integers(1, 5000),
    count=st.integers(12, 60),
    start=st.integers(0, 20),
    end=st.integers(0, 4999),
    data=st.data(),
)
def test_lost_steps_are_found_and_nothing_else(
    spacing: int, count: int, start: int, end: int, data: st.DataObject
) -> None:
    steps = [spacing * (start + place) for place in range(count)]
    lost = data.draw(st.integers(5, count - 6))
    saved = [step for step in steps if step != steps[lost]] + [steps[-1] + end % spacing]
    found = find_cadence(saved)
    assert (found.missing, found.extra) == ((steps[lost],), ())
    assert find_cadence(steps).stretches == (Stretch(spacing, steps[0], steps[-1]),)


@given(st.lists(st.integers(0, 10**6), max_size=60))
def test_missing_and_saved_never_overlap(steps: list[int]) -> None:
    found = find_cadence(steps)
    assert not set(found.missing) & set(steps)
    assert set(found.extra) <= set(steps)
    assert all(left.last <= right.first for left, right in pairwise(found.stretches))


def test_a_change_of_cadence_is_no_gap() -> None:
    found = find_cadence([*range(0, 10_000, 500), *range(10_000, 30_000, 1000), *range(30_000, 90_000, 10_000)])
    assert (found.missing, found.extra) == ((), ())
    assert found.words == "every 500 steps to 10000, then every 1000 steps to 30000, then every 10000 steps to 80000"


def test_a_leap_is_another_series_and_no_gap() -> None:
    found = find_cadence([*range(10), *range(10**17, 10**17 + 10)])
    assert (found.missing, found.extra, len(found.stretches)) == ((), (), 2)


def test_too_few_steps_have_no_cadence() -> None:
    assert find_cadence([0, 10, 100]).words == "no cadence"
    assert find_cadence([]).missing == ()


def test_restarts_are_off_the_cadence() -> None:
    found = find_cadence([*range(0, 20_000, 1000), 150, 4321, 4322, 4323])
    assert (found.missing, found.extra) == ((), (150, 4321, 4322, 4323))
