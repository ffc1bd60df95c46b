"""Several runs collected by one command that is killed by the system: run again, it makes the undisturbed folder."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import olmo_dynamics as od
from olmo_dynamics.progress import Progress
from tests.conftest import ROOT
from tests.runs import write_run
from tests.store.test_atomicity import before_each_file

NAMES = ("step0", "step10", "step20")
SOON, MIDDLE = 0.02, 0.55
MORE = (0.0, 0.1, 0.25, 0.4, 0.46, 0.5, 0.52, 0.65, 0.8, 0.9)
"""Moments as shares of the files that an undisturbed collection writes: about half of them belong to each run."""

COMMAND = """
import os, sys
from olmo_dynamics.cli import main
from tests.store.test_atomicity import before_each_file
def die(count):
    if count == {writes}:
        os.kill(os.getpid(), 9)
sys.argv = ["olmo-dyn", "collect", *{sources!r}, "--out", {out!r}, "--record", "parameters", "--quiet"]
with before_each_file(die):
    main()
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder of runs, but those that hold the time of collecting."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "collected_at" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two seeds of three revisions."""
    folder = tmp_path_factory.mktemp("runs")
    return [str(write_run(folder / f"tiny-seed{seed}", NAMES)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def undisturbed(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The files of a collection that nobody stopped, and the number of writes that it took."""
    out, counts = tmp_path_factory.mktemp("undisturbed") / "runs", list[int]()
    with before_each_file(counts.append):
        collect(sources, out)
    return contents(out), len(counts)


def collect(sources: list[str], out: Path) -> None:
    od.collect(sources, out=out, record=["parameters"], progress=Progress())


@pytest.mark.parametrize("moment", [MIDDLE, *(pytest.param(each, marks=pytest.mark.slow) for each in (SOON, *MORE))])
def test_killed_at_any_moment_and_run_again_it_is_the_undisturbed_one(
    moment: float, sources: list[str], undisturbed: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    expected, writes = undisturbed
    out = tmp_path / "runs"
    script = COMMAND.format(writes=round(moment * writes), sources=sources, out=str(out))
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    collect(sources, out)
    assert contents(out) == expected
    store = od.open_store(out)
    assert store.check().damages == () and len(store.done) == 2 * len(NAMES)
