from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from olmo_dynamics.errors import DiskFullError, StoreBusyError, StoreError
from olmo_dynamics.frames import open_store
from olmo_dynamics.store.locks import locked
from tests.store.synthetic import REVISIONS, add, new_store
from tests.store.test_atomicity import contents
from tests.store.test_layout import message


def hold(lock: Path, pid: int, *, started: str = "", host: str = "") -> None:
    lock.write_text(f"{pid} {started} {host or socket.gethostname()}", encoding="utf-8")


def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    other = open_store(store.path, mode="a")
    expected = (
        f"{store.path} is being written by process {os.getpid()} on {socket.gethostname()}; "
        f"wait for it, or delete {store.path}.lock if it is gone"
    )
    with store.lock():
        store.plan(REVISIONS[:1])  # the holder goes on
        with pytest.raises(StoreBusyError, match=message(expected)):
            add(other, REVISIONS[0], 0)
    add(other, REVISIONS[0], 0)
    assert other.done == {REVISIONS[0].name}
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


def test_what_another_writer_planned_is_seen(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    open_store(store.path, mode="a").plan(REVISIONS[:2])
    add(store, REVISIONS[2], 2)
    assert [*store.missing, *store.done] == [each.name for each in REVISIONS[:3]]


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "s.zarr.lock"
    hold(lock, dead_pid())
    with locked(tmp_path / "s.zarr"):
        assert lock.read_text(encoding="utf-8").startswith(f"{os.getpid()} ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell when a process started")
def test_the_lock_of_a_dead_process_whose_number_was_given_again_is_taken_over(tmp_path: Path) -> None:
    hold(tmp_path / "s.zarr.lock", os.getpid(), started="1")
    with locked(tmp_path / "s.zarr"):
        pass


@pytest.mark.parametrize(
    ("content", "who"),
    [
        (f"{os.getpid()}  {socket.gethostname()}", f"process {os.getpid()} on {socket.gethostname()}"),
        ("999999999 5 another-machine", "process 999999999 on another-machine"),
        ("", "another process"),
    ],
    ids=["alive", "elsewhere", "just begun"],
)
def test_a_lock_that_may_be_held_is_respected(tmp_path: Path, content: str, who: str) -> None:
    store, lock = tmp_path / "s.zarr", tmp_path / "s.zarr.lock"
    lock.write_text(content, encoding="utf-8")
    expected = f"{store} is being written by {who}; wait for it, or delete {lock} if it is gone"
    with pytest.raises(StoreBusyError, match=message(expected)), locked(store):
        pass
    assert lock.read_text(encoding="utf-8") == content


def failing_after(flushes: int, number: int) -> Callable[[int], None]:
    """An `fsync` that refuses after some calls, as a disk does that allocates late."""
    original, left = os.fsync, [flushes]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        original(descriptor)

    return fsync


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    add(store, REVISIONS[0], 0)
    undisturbed = contents(store.path)
    expected = (
        f"no room left on the disk of {store.path}; what was finished stays: make room and run the same command again"
    )
    for flushes in (0, 5, 20):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing_after(flushes, number))
            with pytest.raises(DiskFullError, match=message(expected)):
                add(store, REVISIONS[1], 1)
        assert open_store(store.path).done == {REVISIONS[0].name}
        assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]
        if not flushes:
            assert contents(store.path) == undisturbed
    add(store, REVISIONS[1], 1)
    assert store.missing == ()


def test_a_full_disk_leaves_no_half_made_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing_after(7, errno.ENOSPC))
    with pytest.raises(DiskFullError, match=re.escape(f"no room left on the disk of {tmp_path / 's.zarr'}")):
        new_store(tmp_path / "s.zarr", ("loss",))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    monkeypatch.setattr(os, "fsync", failing_after(0, errno.EACCES))
    expected = f"{store.path} cannot be written (Permission denied); allow it, or choose another folder"
    with pytest.raises(StoreError, match=message(expected)):
        store.plan(REVISIONS)


def test_a_store_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    path = tmp_path / "notes" / "s.zarr"
    with pytest.raises(StoreError, match=rf"^{re.escape(str(path))} cannot be written \(.*\); choose another path$"):
        new_store(path, ("loss",))


def test_another_error_is_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    monkeypatch.setattr(os, "fsync", failing_after(0, errno.EIO))
    with pytest.raises(OSError, match="Input/output error") as raised:
        store.plan(REVISIONS)
    assert raised.value.errno == errno.EIO
