"""Loops compiled by another process while the demo trains."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from olmo_dynamics.experiments import compiling
from olmo_dynamics.experiments.demo import SMALL, pretrain

WRITES = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)"

COUNTS = """
import sys
from numba.core import event
from olmo_dynamics.collecting import collect
from olmo_dynamics.progress import Progress

with event.install_recorder("numba:compile") as recorder:
    collect(sys.argv[1], out=sys.argv[2], revisions=["step20-tokens10240"], progress=Progress())
print(len(recorder.buffer))
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that the other process writes when it starts, in place of compiling."""
    path = tmp_path / "mark"
    monkeypatch.setattr(compiling, "COMMAND", (sys.executable, "-c", WRITES, str(path)))
    monkeypatch.setattr(compiling, "is_compiled", lambda: False)
    return path


@pytest.mark.parametrize("error", [None, KeyboardInterrupt], ids=["whole", "interrupted"])
def test_the_other_process_ends_with_the_block(mark: Path, error: type[BaseException] | None) -> None:
    with nullcontext() if error is None else pytest.raises(error), compiling.compiling_aside():
        while not mark.exists():
            time.sleep(0.01)
        if error is not None:
            raise error


def test_nothing_starts_where_loops_are_compiled_or_cannot_be_kept(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "is_kept", lambda: False)
    with compiling.compiling_aside():
        pass
    monkeypatch.setattr(compiling, "is_kept", lambda: True)
    monkeypatch.setattr(compiling, "is_compiled", lambda: True)
    with compiling.compiling_aside():
        pass
    assert not mark.exists()


@pytest.mark.slow
def test_a_collection_of_the_demo_compiles_nothing_afterwards(tmp_path: Path) -> None:
    environment = os.environ | {"OLMO_DYNAMICS_CACHE": str(tmp_path / "cache")}
    (tmp_path / "other").mkdir()
    subprocess.run((*compiling.COMMAND, str(tmp_path / "other")), check=True, env=environment)
    run = pretrain(tmp_path, size=SMALL)
    command = [sys.executable, "-c", COUNTS, str(run), str(tmp_path / "store.zarr")]
    assert subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout == "0\n"
