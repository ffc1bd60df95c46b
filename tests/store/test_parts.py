"""Several writers share a store in parts: none harms another, whenever any of them is killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.errors import OptionError, StoreBusyError
from olmo_dynamics.frames import open_store
from olmo_dynamics.names import Revision
from olmo_dynamics.store import Store
from tests.store.synthetic import ATTRIBUTES, PROBE, add, layout, new_store, values
from tests.store.test_atomicity import before_each_file, contents
from tests.store.test_files import dead_pid, hold
from tests.store.test_layout import message

GROUPS = ("loss",)
REVISIONS = [Revision(f"step{step}", step=step, tokens=step) for step in range(8)]


def write_part(path: Path, number: int) -> None:
    """Every second revision, planned and appended one by one."""
    store = open_store(path, mode="a")
    with store.lock(f"{number + 1}/2"):
        for step in range(number, 8, 2):
            if REVISIONS[step].name not in store.done:
                add(store, REVISIONS[step], step)


def check(path: Path, steps: set[int]) -> None:
    store = open_store(path)
    assert store.done >= {REVISIONS[step].name for step in steps}
    names = store.arrays("revisions")["revision"].tolist()
    rows = [values(int(name[4:]), GROUPS)["loss/cross_entropy"] for name in names]
    np.testing.assert_array_equal(store.array("loss", "cross_entropy"), rows)


def test_parts_exclude_themselves_and_the_whole(tmp_path: Path) -> None:
    path = new_store(tmp_path / "s.zarr", GROUPS).path
    mine, other = (open_store(path, mode="a") for _ in range(2))
    me = f"process {os.getpid()} on {socket.gethostname()}"
    with mine.lock("2/8"):
        expected = f"{path} is being written by {me}; wait for it, or delete {path}.2-of-8.lock if it is gone"
        for part in ("2/8", None):
            with pytest.raises(StoreBusyError, match=message(expected)), other.lock(part):
                pass
        with other.lock("3/8"):
            add(other, REVISIONS[0], 0)
            add(mine, REVISIONS[1], 1)
        assert sorted(each.name for each in tmp_path.iterdir()) == ["s.zarr", "s.zarr.2-of-8.lock"]
    with mine.lock(), pytest.raises(StoreBusyError, match=r"delete .*/s\.zarr\.lock if it is gone"), other.lock("1/8"):
        pass
    check(path, {0, 1})
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize("part", ["0/8", "9/8", "2", "a/b", "1/0", "-1/2"])
def test_what_is_no_part_is_refused(tmp_path: Path, part: str) -> None:
    store = new_store(tmp_path / "s.zarr", GROUPS)
    with (
        pytest.raises(
            OptionError, match=message(f"a part of a store must be K/N such as 2/8, with K from 1 to N (got {part})")
        ),
        store.lock(part),
    ):
        pass


def test_the_locks_of_dead_parts_are_swept_up(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", GROUPS)
    hold(tmp_path / "s.zarr.2-of-8.lock", dead_pid())
    hold(tmp_path / "s.zarr.1-of-8.lock", dead_pid())
    with store.lock("2/8"):
        pass
    with store.lock():
        assert sorted(each.name for each in tmp_path.iterdir()) == ["s.zarr", "s.zarr.lock"]
    hold(tmp_path / "s.zarr.lock", dead_pid())
    with store.lock("2/8"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


def test_the_first_of_several_parts_makes_the_store(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    found: list[Store] = []

    def make(number: int) -> None:
        store = Store.create(
            path, layout=layout(GROUPS), attributes=ATTRIBUTES, probe_arrays=PROBE, part=f"{number + 1}/4"
        )
        found.append(store)
        write_part(path, number % 2) if number < 2 else None

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 4
    check(path, set(range(8)))
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


def test_parts_written_at_once_lose_nothing(tmp_path: Path) -> None:
    for repeat in range(3):
        path = new_store(tmp_path / f"{repeat}.zarr", GROUPS).path
        threads = [threading.Thread(target=write_part, args=(path, number)) for number in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        check(path, set(range(8)))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0.zarr", "1.zarr", "2.zarr"]


@pytest.mark.parametrize("writes", [3, 40, 71])
def test_a_part_killed_by_the_system_harms_no_other(tmp_path: Path, writes: int) -> None:
    path = new_store(tmp_path / "s.zarr", GROUPS).path
    script = f"""
import os, sys
from pathlib import Path
from tests.store.test_atomicity import before_each_file
from tests.store.test_parts import write_part
def die(count):
    if count == {writes}:
        os.kill(os.getpid(), 9)
with before_each_file(die):
    write_part(Path({str(path)!r}), 0)
"""
    dying = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    write_part(path, 1)
    assert dying.wait() == -9
    check(path, {1, 3, 5, 7})
    write_part(path, 0)
    check(path, set(range(8)))
    with open_store(path, mode="a").lock():
        pass
    assert {each.name for each in tmp_path.iterdir()} <= {"s.zarr", "s.zarr.turn"}


def test_a_writer_between_any_two_changes_of_another_waits_its_turn(tmp_path: Path) -> None:
    """Whatever moment another part comes at, both leave what they would have left alone."""
    alone = new_store(tmp_path / "alone.zarr", GROUPS)
    for step in (0, 1):
        add(alone, REVISIONS[step], step)
    path = new_store(tmp_path / "s.zarr", GROUPS).path
    first, second = (open_store(path, mode="a") for _ in range(2))
    second_writes = threading.Thread(target=add, args=(second, REVISIONS[1], 1))

    def come(count: int) -> None:
        if count == 5 and not second_writes.ident:
            second_writes.start()
            second_writes.join(0.05)
            assert second_writes.is_alive()  # it waits

    with first.lock("1/2"), second.lock("2/2"):
        with before_each_file(come):
            add(first, REVISIONS[0], 0)
        second_writes.join()
    mine, others = contents(path), contents(alone.path)
    assert mine.keys() == others.keys()
    assert mine == others
