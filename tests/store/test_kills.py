"""A writer killed by the system at random moments, fifty times: no number is lost, none is wrong, nothing is damaged."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.frames import open_store
from olmo_dynamics.names import Revision
from tests.store.silent import WIDER, add_silent, new_silent_store, silent_layout, silent_values

KILLS = 50
REVISIONS = [Revision(f"step{step}", step=step) for step in range(KILLS)]

WRITER = """
import os, sys
from pathlib import Path
from tests.store.test_atomicity import before_each_file
from tests.store.test_kills import write
def die(count):
    if count == {writes}:
        os.kill(os.getpid(), 9)
with before_each_file(die):
    write(Path({path!r}), {turn})
"""


def write(path: Path, turn: int) -> None:
    """Measure one revision more; now and then fill in a quantity for all, and compact."""
    store = open_store(path, mode="a")
    store.repair(REVISIONS)
    store.plan(REVISIONS[: turn + 1])
    if turn % 5 == 4:
        store.add_quantities(silent_layout(WIDER))
    for seed, revision in enumerate(REVISIONS[: turn + 1]):
        if "silent" not in store.recorded(revision.name):
            add_silent(store, revision, seed, WIDER)
    if turn % 3 == 2:
        store.compact()


def check(path: Path) -> int:
    """Compare each number that is there; returns how many revisions are."""
    store = open_store(path)
    for seed, revision in enumerate(REVISIONS):
        if revision.name in store.done:
            row = store.row("silent", revision.name)
            for name in {"silent_share", "silent_by_bin"} & row.keys():
                np.testing.assert_array_equal(row[name], silent_values(seed)[name])
            if "silent" in store.recorded(revision.name) and "silent_mean" in row:
                np.testing.assert_array_equal(row["silent_mean"], silent_values(seed)["silent_mean"])
    assert store.check().damages == ()
    return len(store.done)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_random_kills_lose_nothing(tmp_path: Path) -> None:
    path, draw, killed, before = new_silent_store(tmp_path / "s.zarr").path, random.Random(0), 0, 0
    for turn in range(KILLS):
        script = WRITER.format(writes=draw.randrange(60), path=str(path), turn=turn)
        ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
        assert ended.returncode in (0, -9)
        killed += ended.returncode == -9
        done = check(path)
        assert done >= before
        before = done
    assert killed > KILLS // 2
    write(path, KILLS - 1)
    assert check(path) == KILLS
