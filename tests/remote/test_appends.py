"""Appends in a bucket: the bytes of a local store, rows visible whole or not at all, whatever stops the writer."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmo_dynamics.errors import NetworkError, StoreError
from olmo_dynamics.files import as_place
from olmo_dynamics.files.buckets import Bucket
from olmo_dynamics.frames import open_store
from olmo_dynamics.names import Revision
from tests.conftest import ROOT
from tests.hub import Fault
from tests.remote.faulty import FaultyServer
from tests.remote.reading import contents
from tests.store.silent import WIDER, add_silent, new_silent_store, silent_layout
from tests.store.synthetic import ATTRIBUTES, PROBE, REVISIONS, add, layout, new_store, values
from tests.store.test_back_fill import fill
from tests.store.test_kills import check, write

GROUPS = ("loss",)


class Killed(BaseException):
    """Not an `Exception`: nothing that mends errors sees it, as nothing sees a kill."""


@contextmanager
def before_each_change(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with the count of changes so far, before an object is written or removed."""
    count = 0

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def function(self: Bucket, key: Any, *given: Any) -> Any:
            nonlocal count
            first = key if isinstance(key, str) else key[0]
            if not first.endswith((".lock", ".turn")) and ".probe-" not in first:
                act(count)
                count += 1
            return original(self, key, *given)

        return function

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "create", "replace", "delete"):
            patch.setattr(Bucket, name, watched(getattr(Bucket, name)))
        yield


def history(path: Any) -> None:
    """A store that is made, extended, filled, compacted, appended to and given another group."""
    store = new_store(path, GROUPS)
    store.plan(REVISIONS[:3])
    add(store, REVISIONS[0], 0)
    store.compact()
    add(store, REVISIONS[1], 1)
    store.add_groups(layout(("loss", "logits")), attributes=ATTRIBUTES, probe_arrays=PROBE)
    fill(store, 1, ("logits",), f"{1:064d}")


def test_the_bytes_are_those_of_a_local_store(bucket: str, tmp_path: Path) -> None:
    history(tmp_path / "s.zarr")
    history(f"{bucket}/s.zarr")
    assert contents(f"{bucket}/s.zarr") == contents(tmp_path / "s.zarr")
    objects = as_place(f"{bucket}/s.zarr").tree.objects
    assert objects.list_level("") == []  # no lock, no mark and no probe is left beside it
    assert open_store(f"{bucket}/s.zarr").check().damages == ()


def test_arrays_of_one_row_per_object_are_the_same_too(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("olmo_dynamics.store.zarr_format.CHUNK_BYTES", 50)
    history(tmp_path / "s.zarr")
    history(f"{bucket}/s.zarr")
    assert contents(f"{bucket}/s.zarr") == contents(tmp_path / "s.zarr")
    here, there = open_store(tmp_path / "s.zarr"), open_store(f"{bucket}/s.zarr")
    assert there.table("loss").equals(here.table("loss")) and there.missing == here.missing


def second_run(path: Any) -> None:
    store = open_store(path, mode="a")
    store.plan(REVISIONS[1:3])
    if REVISIONS[1].name not in store.done:
        add(store, REVISIONS[1], 1)


def check_readable(path: Any) -> None:
    """What was complete is unharmed, and a row is there wholly or not at all."""
    store = open_store(path)
    seeds = [seed for seed, each in enumerate(REVISIONS) if each.name in store.done]
    assert 0 in seeds
    rows = [values(seed, GROUPS)["loss/cross_entropy"] for seed in seeds]
    np.testing.assert_array_equal(store.array("loss", "cross_entropy"), rows)


def undisturbed(folder: Path) -> dict[str, bytes]:
    add(new_store(folder / "u.zarr", GROUPS), REVISIONS[0], 0)
    second_run(folder / "u.zarr")
    return contents(folder / "u.zarr")


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_between_any_two_objects_and_run_again(bucket: str, tmp_path: Path, every: int) -> None:
    expected, counts = undisturbed(tmp_path), list[int]()
    add(new_store(f"{bucket}/0.zarr", GROUPS), REVISIONS[0], 0)
    with before_each_change(counts.append):
        second_run(f"{bucket}/0.zarr")
    assert len(counts) > 40 and contents(f"{bucket}/0.zarr") == expected
    for survived in range(1, len(counts), every):
        path = f"{bucket}/{survived}.zarr"
        add(new_store(path, GROUPS), REVISIONS[0], 0)

        def die(count: int, last: int = survived) -> None:
            if count >= last:
                raise Killed

        with before_each_change(die), pytest.raises(Killed):
            second_run(path)
        check_readable(path)
        second_run(path)
        assert contents(path) == expected, f"killed after {survived} objects"


def test_killed_by_the_system_leaves_its_lock_which_is_taken_over(bucket: str, tmp_path: Path) -> None:
    path = f"{bucket}/s.zarr"
    add(new_store(path, GROUPS), REVISIONS[0], 0)
    script = f"""
import os
from tests.remote.test_appends import before_each_change, second_run
def die(count):
    if count >= 40:
        os.kill(os.getpid(), 9)
with before_each_change(die):
    second_run({path!r})
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert ended.returncode == -9
    objects = as_place(path).tree.objects
    assert objects.list_level("") == ["s.zarr.lock"]
    check_readable(path)
    second_run(path)
    assert contents(path) == undisturbed(tmp_path)
    assert objects.list_level("") == []


def test_a_store_killed_while_it_was_made_is_not_there(bucket: str, tmp_path: Path) -> None:
    path = f"{bucket}/s.zarr"
    script = f"""
import os
from tests.remote.test_appends import before_each_change, history
def die(count):
    if count >= 25:
        os.kill(os.getpid(), 9)
with before_each_change(die):
    history({path!r})
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert 20 <= len(contents(path)) <= 30
    with pytest.raises(StoreError, match="there is no store at"):
        open_store(path)
    history(tmp_path / "s.zarr")
    history(path)
    assert contents(path) == contents(tmp_path / "s.zarr")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_kills_lose_nothing(bucket: str) -> None:
    path, draw, killed, before = f"{bucket}/s.zarr", random.Random(0), 0, 0
    new_silent_store(path)
    for turn in range(30):
        script = f"""
import os
from tests.remote.test_appends import before_each_change
from tests.store.test_kills import write
def die(count):
    if count >= {draw.randrange(60)}:
        os.kill(os.getpid(), 9)
with before_each_change(die):
    write({path!r}, {turn})
"""
        ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
        assert ended.returncode in (0, -9)
        killed += ended.returncode == -9
        done = check(path)
        assert done >= before
        before = done
    assert killed > 15
    write(path, 29)
    assert check(path) == 30


FAULTS = {
    "too many requests": [Fault("503", probability=0.3, seed=1, times=None)],
    "connections that close before an answer": [Fault("hang_up", probability=0.2, seed=2, times=None)],
    "answers cut short by a reset": [Fault("reset", method="GET", probability=0.3, seed=3, times=None)],
    "answers cut short": [Fault("short", method="GET", probability=0.3, seed=4, times=None)],
    "late answers": [
        Fault("slow", probability=0.1, seed=5, times=None, seconds=0.2),
        Fault("stall", method="GET", probability=0.2, seed=6, times=None, seconds=0.2),
    ],
}


IN_CI = ("too many requests", "answers cut short by a reset")


@pytest.mark.parametrize(
    "faults",
    [pytest.param(faults, id=name, marks=() if name in IN_CI else pytest.mark.slow) for name, faults in FAULTS.items()],
)
def test_faults_of_the_server_change_no_byte(
    faulty: FaultyServer, bucket: str, tmp_path: Path, faults: list[Fault]
) -> None:
    for fault in faults:
        faulty.add_fault(fault)
    history(f"{bucket}/s.zarr")
    history(tmp_path / "s.zarr")
    assert sum(fault.struck for fault in faults) > 10
    assert contents(f"{bucket}/s.zarr") == contents(tmp_path / "s.zarr")


def test_a_server_that_stays_away_ends_the_append_and_the_next_one_goes_on(
    faulty: FaultyServer, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("olmo_dynamics.files.buckets._TRIES", {"max_retries": 0})
    path = f"{bucket}/s.zarr"
    add(new_store(path, GROUPS), REVISIONS[0], 0)
    away = faulty.add_fault(Fault("503", method="PUT", after=30, times=None))
    with pytest.raises(
        NetworkError, match=r"could not be reached \(503 Service Unavailable\); what was finished is kept"
    ):
        second_run(path)
    away.active = False
    check_readable(path)
    second_run(path)
    assert contents(path) == undisturbed(tmp_path)


def test_a_user_declared_group_is_back_filled(bucket: str, tmp_path: Path) -> None:
    for path in (tmp_path / "s.zarr", f"{bucket}/s.zarr"):
        store = new_silent_store(path)
        revisions = [Revision(f"step{step}", step=step) for step in range(3)]
        store.plan(revisions)
        add_silent(store, revisions[0], 0)
        store.add_quantities(silent_layout(WIDER))
        for seed in (0, 1):
            add_silent(store, revisions[seed], seed, WIDER)
    assert contents(f"{bucket}/s.zarr") == contents(tmp_path / "s.zarr")
