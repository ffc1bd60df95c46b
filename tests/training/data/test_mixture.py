"""Batches that grow and mixtures by weight: exact shares, every place a function of its number."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.training.data.batch_size import BatchSizes
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.data.mixture import BLOCK, MixtureSampler, quotas
from olmo_dynamics.training.data.order import DataOrder
from olmo_dynamics.training.data.sampler import Sampler


@pytest.fixture
def parts(tmp_path: Path) -> tuple[TokenFiles, ...]:
    """Three files of 50, 90 and 7 instances of 4 tokens, which say where they are from."""
    found = []
    for number, count in enumerate((50, 90, 7)):
        path = tmp_path / f"{number}.npy"
        (np.arange(4 * count, dtype=np.uint32) + 1000 * number).astype(np.uint32).tofile(path)
        found.append(TokenFiles.open([path], length=4, dtype="uint32"))
    return tuple(found)


def test_a_batch_follows_from_its_number(parts: tuple[TokenFiles, ...]) -> None:
    sizes = BatchSizes(7, ((60, 9),))
    mixed = MixtureSampler(parts, (0.5, 0.3, 0.2), DataOrder(kind="shuffled", seed=3, epoch=1), sizes)
    whole = np.concatenate([mixed.batch(position).token_ids for position in range(400)])
    assert np.array_equal(whole[: 7 * 60], np.concatenate([mixed.batch(position).token_ids for position in range(60)]))
    owners = whole[:, 0] // 1000
    for block in range(3):  # any thousand sequences from a block's beginning hold the shares exactly
        assert np.bincount(owners[block * BLOCK : (block + 1) * BLOCK]).tolist() == [500, 300, 200]
    for number, part in enumerate(parts):  # each file goes through its epochs in its own order
        seen = (whole[owners == number, 0] - 1000 * number) // 4
        for epoch in range(2):
            assert sorted(seen[epoch * part.count : (epoch + 1) * part.count]) == list(range(part.count))
    later = MixtureSampler(
        parts, (0.5, 0.3, 0.2), DataOrder(kind="shuffled", seed=3, epoch=1, skipped=sizes.before(100)), sizes.later(100)
    )
    for position in (0, 5, 200):
        assert np.array_equal(later.batch(position).token_ids, mixed.batch(100 + position).token_ids)
    last = later.before()
    assert last is not None and np.array_equal(last.token_ids, mixed.batch(99).token_ids)
    other = MixtureSampler(parts, (0.5, 0.3, 0.2), DataOrder(kind="shuffled", seed=4, epoch=1), sizes)
    assert not np.array_equal(other.batch(0).token_ids, mixed.batch(0).token_ids)
    with pytest.raises(TrainingError, match=r"^the mixture began 0 sequences before this run: choose a later --step$"):
        mixed.batch(-1)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_quotas_sum_to_a_block_and_lie_within_one(weights: list[float]) -> None:
    shares = quotas([max(weight, 0.01 * sum(weights)) for weight in weights])
    assert sum(shares) == BLOCK and min(shares) >= 1
    exact = np.array([max(weight, 0.01 * sum(weights)) for weight in weights])
    assert np.abs(shares - exact / exact.sum() * BLOCK).max() < 1


def test_weights_without_meaning_are_refused() -> None:
    with pytest.raises(OptionError, match=r"^weights of data must be above 0 \(got 1.0, 0.0\)$"):
        quotas([1.0, 0.0])
    with pytest.raises(
        OptionError, match=r"^each weight must be at least a thousandth of their sum \(got 1.0, 1e-05\)$"
    ):
        quotas([1.0, 1e-5])


def test_sizes_by_hand() -> None:
    sizes = BatchSizes(2, ((3, 4), (5, 8)))
    assert [sizes.at(position) for position in range(7)] == [2, 2, 2, 4, 4, 8, 8]
    assert [sizes.before(position) for position in range(-1, 8)] == [-2, 0, 2, 4, 6, 10, 14, 22, 30]
    assert sizes.later(4) == BatchSizes(4, ((1, 8),)) and sizes.largest == 8
    with pytest.raises(OptionError, match=r"^batch sizes must be at least 1 and rise \(got 4, 2\)$"):
        BatchSizes(4, ((1, 2),))


@given(st.integers(1, 3), st.integers(0, 5), st.integers(0, 12))
def test_growing_batches_go_through_the_epochs_row_by_row(first: int, skipped: int, begin: int) -> None:
    files = TokenFiles((_Numbers(),), (11,), 4)
    ordered = Sampler(
        files, DataOrder(kind="olmo", seed=1, skipped=skipped), BatchSizes(first, ((begin + 1, first + 2),))
    )
    epoch, row = 0, skipped
    for position in range(20):  # by hand: one batch after the other, the next epoch where no whole one is left
        size = ordered.sizes.at(position)
        if row + size > 11:
            epoch, row = epoch + 1, 0
        assert ordered.place(position) == (epoch, row)
        row += size


class _Numbers:
    """A source of 44 tokens, of which only the number matters."""

    name, dtype, size = "numbers", np.dtype(np.uint32), 44

    def read(self, spans: list[tuple[int, int]]) -> list[np.ndarray]:
        return [np.arange(*span, dtype=np.uint32) for span in spans]


def test_steps_before_a_run_are_those_it_saw() -> None:
    files = TokenFiles((_Numbers(),), (11,), 4)
    whole = Sampler(files, DataOrder(kind="olmo", seed=1), BatchSizes(2))
    later = Sampler(files, DataOrder(kind="olmo", seed=1, epoch=1, skipped=4), BatchSizes(2))
    for position in range(7):
        assert np.array_equal(later.batch(position - 7).token_ids, whole.batch(position).token_ids)
    with pytest.raises(
        TrainingError, match=r"^the parent had read 4 sequences of its data in epoch 1, fewer than the 16 asked for"
    ):
        later.batch(-8)
