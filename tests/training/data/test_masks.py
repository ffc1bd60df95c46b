"""Sequences that repeat themselves, against counting by hand; documents by the token that ends them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.data.masks import LabelMask, Repeats, longest_run


def times_by_hand(row: list[int], period: int) -> int:
    """The most whole periods in any stretch of the row that repeats itself with that period."""
    best = 0
    for start, stop in itertools.combinations(range(len(row) + 1), 2):
        stretch = row[start:stop]
        if len(stretch) > period and all(stretch[at] == stretch[at - period] for at in range(period, len(stretch))):
            best = max(best, len(stretch) // period)
    return best


@given(st.lists(st.integers(0, 2), min_size=12, max_size=24), st.integers(1, 3), st.integers(3, 6))
def test_too_many_repeats_are_those_counted_by_hand(row: list[int], max_period: int, max_count: int) -> None:
    repeats = Repeats(max_period=max_period, max_count=max_count)
    wanted = any(times_by_hand(row, period) >= max_count for period in range(1, max_period + 1))
    assert repeats.too_many(np.array([row], np.int64)).tolist() == [wanted]


@pytest.mark.parametrize(
    ("period", "count", "masked"), [(1, 31, False), (1, 32, True), (13, 31, False), (13, 32, True)]
)
def test_olmos_filter_masks_32_repeats_of_up_to_13_tokens(period: int, count: int, masked: bool) -> None:
    ids = np.arange(1000, 1600, dtype=np.int64)
    ids[50 : 50 + period * count] = np.tile(np.arange(period), count)
    batch = LabelMask(repeats=Repeats()).batch(np.stack([ids, np.arange(600, dtype=np.int64)]))
    assert (batch.loss_mask is not None) == masked
    if batch.loss_mask is not None:
        assert batch.loss_mask.any(1).tolist() == [False, True] and batch.loss_mask[1].all()


def test_a_period_of_14_is_no_matter() -> None:
    ids = np.tile(np.arange(14, dtype=np.int64), 40)[None]
    assert not Repeats().too_many(ids).any() and Repeats(max_period=14).too_many(ids).all()


def test_the_longest_run_by_hand() -> None:
    values = np.array([[1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 0]], dtype=bool)
    assert longest_run(values).tolist() == [3, 0, 6, 1]


def test_documents_end_with_their_last_token() -> None:
    ids = np.array([[5, 0, 7, 8, 0, 0, 9], [1, 2, 3, 4, 5, 6, 7]], np.int64)
    batch = LabelMask(end_of_text=0, documents=True).batch(ids)
    assert batch.documents is not None and batch.loss_mask is None
    assert batch.documents.tolist() == [[0, 0, 1, 1, 1, 2, 3], [0] * 7] and batch.documents.dtype == torch.int64


def test_filters_without_meaning_are_refused() -> None:
    with pytest.raises(OptionError, match=r"^repeats must have 1 <= min_period <= max_period and max_count >= 2 \(got"):
        Repeats(min_period=5, max_period=4)
