"""Orders against the vectors that the trainers' own code gave, files against cutting them by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.errors import OptionError, ProbeError, TrainingError
from olmo_dynamics.probes.token_sources import dtype_for
from olmo_dynamics.training.data.batch_size import BatchSizes
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.data.order import DataOrder
from olmo_dynamics.training.data.sampler import Sampler
from olmo_dynamics.training.data.shuffle import order_of_epoch, shuffled
from olmo_dynamics.training.data.windows import Windows

NATIVE = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "native"


@pytest.mark.parametrize(
    ("kind", "seed", "epoch", "block", "wanted"),
    [
        ("olmo", 6198, 0, 1, "4 14 6 15 3 2 13 0 10 11 9 7 8 1 12 5"),
        ("olmo", 6198, 1, 1, "5 6 15 8 4 9 11 12 2 1 14 3 10 13 0 7"),
        ("olmo", 42, 0, 1, "6 15 11 10 9 3 0 7 12 5 2 4 14 1 13 8"),
        ("olmo", 666, 0, 1, "8 11 2 4 0 3 15 6 14 9 10 1 12 13 5 7"),
        ("olmo-core", 34521, 1, 1, "15 14 13 1 11 0 2 5 6 4 8 12 9 10 7 3"),
        ("olmo-core", 34521, 1, 2, "8 9 12 13 14 15 0 1 10 11 2 3 4 5 6 7"),
        ("olmo-core", 1337, 1, 1, "9 3 10 6 4 0 11 2 14 1 15 8 13 5 7 12"),
        ("sequential", 5, 3, 1, "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),
    ],
)
def test_orders_are_the_trainers(kind: str, seed: int, epoch: int, block: int, wanted: str) -> None:
    assert order_of_epoch(kind, 16, seed, epoch, block).tolist() == [int(word) for word in wanted.split()]


def test_orders_of_a_million() -> None:
    olmo, core = shuffled(10**6, seed=6198, epoch=0), shuffled(10**6, seed=34521, epoch=1, block=2)
    assert (olmo[:4].tolist(), int(olmo[-1])) == ([896398, 797198, 937343, 811700], 904693)
    assert (core[:4].tolist(), int(core[-1])) == ([789250, 789251, 135318, 135319], 198183)


def test_the_order_is_the_one_that_the_trainer_saved() -> None:
    saved = NATIVE / "olmo" / "tiny-olmo2" / "train_data" / "global_indices.npy"
    if not saved.exists():
        pytest.skip("the native runs are not beside this checkout")
    files = TokenFiles.open([NATIVE / "tokens" / "train.npy"], length=128, dtype="uint16")
    assert shuffled(files.count, seed=6198, epoch=0).tolist() == np.fromfile(saved, np.uint32).tolist()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Files of 9 and 14 tokens: 0 to 8, and 100 to 113."""
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    np.arange(9, dtype=np.uint16).tofile(first)
    np.arange(100, 114, dtype=np.uint16).tofile(second)
    return [first, second]


def test_each_file_is_cut_by_itself_and_loses_its_tail(paths: list[Path]) -> None:
    files = TokenFiles.open([*paths, paths[0]], length=4, dtype="uint16")
    assert files.counts == (2, 3, 2) and files.token_count == 32
    assert files.read([1, 2, 4, 5]).tolist() == [[4, 5, 6, 7], [100, 101, 102, 103], [108, 109, 110, 111], [0, 1, 2, 3]]
    longer = TokenFiles.open(paths, length=4, dtype="uint16", unit=8)  # a target of 8 costs the second file 6 tokens
    assert longer.counts == (2, 2)


def test_a_run_may_begin_in_the_middle_of_an_epoch(paths: list[Path]) -> None:
    files = TokenFiles.open(paths, length=4, dtype="uint16")
    whole = Sampler(files, DataOrder(kind="olmo", seed=3), BatchSizes(2))
    later = Sampler(files, DataOrder(kind="olmo", seed=3, skipped=2), BatchSizes(2))
    assert [whole.place(position) for position in range(5)] == [(0, 0), (0, 2), (1, 0), (1, 2), (2, 0)]
    for position in range(4):
        assert np.array_equal(later.batch(position).token_ids, whole.batch(position + 1).token_ids)
    single = Sampler(
        files, DataOrder(kind="olmo", seed=3, skipped=2), BatchSizes(1)
    )  # another batch size goes on at the same place
    assert np.array_equal(
        np.concatenate([single.batch(0).token_ids, single.batch(1).token_ids]), later.batch(0).token_ids
    )


def test_windows_are_the_order_of_olmo_core(paths: list[Path], tmp_path: Path) -> None:
    tokens = np.arange(70, dtype=np.uint16)
    tokens.tofile(tmp_path / "c.npy")
    files = TokenFiles.open([tmp_path / "c.npy"], length=4, dtype="uint16")
    ordered = Sampler(files, DataOrder(kind="olmo-core", seed=9, epoch=1), BatchSizes(3))
    windows = Windows(tokens, 4, 3, 9)
    assert all(
        np.array_equal(ordered.batch(position).token_ids, windows.batch(position).token_ids) for position in range(12)
    )


def test_files_that_hold_no_tokens_of_ours_are_refused(paths: list[Path], tmp_path: Path) -> None:
    header, odd = tmp_path / "header.npy", tmp_path / "odd.npy"
    np.save(header, np.arange(9.0))
    odd.write_bytes(b"123")
    for path, message in (
        (tmp_path / "none.npy", f"{tmp_path / 'none.npy'} is not a file of token ids: check the path"),
        (header, f"token ids must be integers in C order; {header} holds float64 of shape (9,): save it again"),
        (odd, f"{odd} has 3 bytes, not a multiple of the 2 of uint16: give the dtype that it was written in"),
    ):
        with pytest.raises(ProbeError, match=f"^{re.escape(message)}$"):
            TokenFiles.open([path], length=4, dtype="uint16")
    with pytest.raises(
        TrainingError, match=r"^training needs at least one instance of 64 tokens; the 2 files hold 23: "
    ):
        TokenFiles.open(paths, length=64, dtype="uint16")
    files = TokenFiles.open(paths, length=4, dtype="uint16")
    with pytest.raises(
        TrainingError, match=r"^one batch is 6 instances of 4 tokens; the data holds 5: give more data or a "
    ):
        Sampler(files, DataOrder(kind="olmo"), BatchSizes(6))
    with pytest.raises(
        TrainingError, match=r"^the parent had read 9 instances of its data; these files hold 5: give the "
    ):
        Sampler(files, DataOrder(kind="olmo", skipped=9), BatchSizes(2))
    with pytest.raises(
        OptionError, match=r"^order must be one of olmo, olmo-core, shuffled, sequential \(got 'random'\)$"
    ):
        DataOrder(kind="random")
    assert [dtype_for(size) for size in (512, 65536, 100278)] == ["uint16", "uint16", "uint32"]
