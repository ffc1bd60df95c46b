"""Locks in a bucket: one writer, or one for each part; a lock that is not renewed is taken over, and its writer stops."""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from olmo_dynamics.errors import StoreBusyError, StoreError
from olmo_dynamics.files import ObjectPath, as_place
from olmo_dynamics.frames import open_store
from olmo_dynamics.names import Revision
from olmo_dynamics.store.locks import exclusive_append, locked
from olmo_dynamics.store.remote import object_lock
from tests.hub import Fault
from tests.remote.conftest import make_bucket
from tests.remote.faulty import FaultyServer
from tests.remote.reading import contents
from tests.store.synthetic import REVISIONS, add, new_store

ELSEWHERE = "77 1 another-node\n0123\n0\n"


@pytest.fixture
def store(bucket: str) -> ObjectPath:
    place = as_place(f"{bucket}/s.zarr")
    assert isinstance(place, ObjectPath)
    return place


def names(store: ObjectPath) -> list[str]:
    return sorted(store.tree.objects.list_level(""))


def test_one_writer_of_the_whole_or_one_of_each_part(store: ObjectPath) -> None:
    me = f"process {os.getpid()} on {socket.gethostname()}"
    busy = f"^{store} is being written by {me}; wait for it, or, if it is gone, for the 120 s after which its lock is taken over$"
    with locked(store):
        assert names(store) == ["s.zarr.lock"]
        for part in (None, "1/2"):
            with pytest.raises(StoreBusyError, match=busy), locked(store, part):
                pass
        assert names(store) == ["s.zarr.lock"]
    with locked(store, "1/2"), locked(store, "2/2"):
        assert names(store) == ["s.zarr.1-of-2.lock", "s.zarr.2-of-2.lock"]
        for part in (None, "2/2"):
            with pytest.raises(StoreBusyError, match=busy), locked(store, part):
                pass
    assert names(store) == []


def set_clock(monkeypatch: pytest.MonkeyPatch, *, ahead: float) -> None:
    """Let this process believe that it is later."""
    clock = SimpleNamespace(time=lambda: time.time() + ahead, sleep=time.sleep)
    monkeypatch.setattr(object_lock, "time", clock)


def test_a_lock_of_another_node_is_taken_over_when_it_is_not_renewed(
    store: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = store.tree.objects
    objects.write("s.zarr.lock", ELSEWHERE.encode())
    with pytest.raises(StoreBusyError, match="is being written by process 77 on another-node; "), locked(store):
        pass
    set_clock(monkeypatch, ahead=object_lock.LIFETIME - 5)
    with pytest.raises(StoreBusyError, match="is being written by process 77 on another-node; "), locked(store):
        pass
    set_clock(monkeypatch, ahead=object_lock.LIFETIME + 5)  # times of a server are whole seconds
    with locked(store):
        assert objects.read("s.zarr.lock").decode().startswith(f"{os.getpid()} ")
    objects.write("s.zarr.3-of-4.lock", ELSEWHERE.encode())
    with locked(store):
        assert names(store) == ["s.zarr.lock"]


def test_a_writer_whose_lock_was_taken_over_writes_no_more(bucket: str) -> None:
    path = f"{bucket}/s.zarr"
    store = new_store(path, ("loss",))
    place = store.path
    assert isinstance(place, ObjectPath)
    with store.lock():
        place.tree.objects.write("s.zarr.lock", ELSEWHERE.encode())
        lock = place.tree.guards[0].__self__
        taken = "was taken over by another process, since this one did not renew its lock for 120 s"
        with pytest.raises(StoreBusyError, match=taken):
            lock.renew()
        with pytest.raises(StoreBusyError, match=taken):
            add(store, REVISIONS[0], 0)
    assert open_store(path).done == frozenset()
    assert names(place) == ["s.zarr.lock"]  # the other process's


def test_a_lock_is_renewed_while_it_is_held(store: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lock, "RENEWAL", 0.1)
    with locked(store):
        first = store.tree.objects.read("s.zarr.lock")
        time.sleep(0.5)
        assert store.tree.objects.read("s.zarr.lock") != first


@pytest.mark.parametrize("kind", ["503", "hang_up"])
def test_a_lost_answer_does_not_lock_its_writer_out(faulty: FaultyServer, bucket: str, kind: str) -> None:
    store = as_place(f"{bucket}/s.zarr")
    faulty.add_fault(Fault(kind, method="PUT", probability=0.5, seed=8, times=None))
    for _ in range(5):
        with locked(store):
            pass
    for end in (".lock", ".turn"):
        faulty.lost.append(end)
        with locked(store), exclusive_append(store):
            pass
        assert faulty.lost == []


def test_turns_are_taken_one_after_another(store: ObjectPath) -> None:
    inside, seen, most = 0, 0, 0
    count = threading.Lock()

    def take() -> None:
        nonlocal inside, seen, most
        for _ in range(2):
            place = as_place(str(store))
            with exclusive_append(place):
                with count:
                    inside, seen = inside + 1, seen + 1
                    most = max(most, inside)
                time.sleep(0.02)
                with count:
                    inside -= 1

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (seen, most) == (6, 1) and names(store) == []


PARTS = [Revision(f"step{step}", step=step) for step in range(6)]


def write_part(path: str, number: int) -> None:
    store = open_store(path, mode="a")
    with store.lock(f"{number + 1}/2"):
        store.plan(PARTS)
        for step in range(number, len(PARTS), 2):
            add(store, PARTS[step], step)


@pytest.mark.slow
def test_parts_of_two_processes_are_the_store_of_one(bucket: str, tmp_path: Path) -> None:
    path = f"{bucket}/s.zarr"
    new_store(path, ("loss",))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_part, args=(path, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    local = new_store(tmp_path / "s.zarr", ("loss",))
    local.plan(PARTS)
    for step, revision in enumerate(PARTS):
        add(local, revision, step)
    assert contents(path) == contents(tmp_path / "s.zarr")


@pytest.fixture
def careless(server: str, account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a server that writes whatever the conditions say."""
    with FaultyServer(server, dropped=("if-none-match", "if-match")) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.endpoint)
        yield make_bucket(server)


def test_a_server_without_conditions_has_one_writer_and_no_parts(careless: str, tmp_path: Path) -> None:
    path = f"{careless}/s.zarr"
    store = new_store(path, ("loss",))
    add(store, REVISIONS[0], 0)
    add(new_store(tmp_path / "s.zarr", ("loss",)), REVISIONS[0], 0)
    assert contents(path) == contents(tmp_path / "s.zarr")
    with store.lock(), pytest.raises(StoreBusyError, match="is being written by process"), locked(as_place(path)):
        pass
    refused = (
        "--shard needs a server that refuses to create an object twice (If-None-Match), and that of "
        f"{path} does not; leave out --shard, or collect into a folder and copy it"
    )
    with pytest.raises(StoreError, match=f"^{re.escape(refused)}$"), store.lock("1/2"):
        pass
