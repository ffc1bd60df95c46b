"""A forest of folders: who descends from whom, and their numbers joined along ancestry."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import Forest, forest
from olmo_dynamics.frames.lineage import read_line


def write_run(folder: Path, steps: tuple[int, ...], parent: dict[str, Any] | None = None, **overrides: Any) -> Path:
    """A run as training leaves it, its weights a few bytes, its losses the run's own."""
    for step in steps:
        checkpoint = folder / f"step{step}-tokens{8 * step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text("{}")
        (checkpoint / "model.safetensors").write_bytes(f"{folder.name} {step}".encode())
        (checkpoint / "lineage.json").write_text(json.dumps({"parent": parent, "overrides": overrides}))
    every = range(steps[0] + 1, steps[-1] + 1)
    rows = {
        "step": every,
        "tokens": [8 * step for step in every],
        "loss": [len(folder.name) + 1 / step for step in every],
    }
    pl.DataFrame(rows).write_parquet(folder / "metrics.parquet")
    return folder


def origin(folder: Path, step: int) -> dict[str, Any]:
    revision = f"step{step}-tokens{8 * step}"
    sha256 = hashlib.sha256((folder / revision / "model.safetensors").read_bytes()).hexdigest()
    return {"source": str(folder), "revision": revision, "step": step, "weights_sha256": sha256}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A run of 9 steps, its fork at 4 and that one's fork at 6."""
    run = write_run(tmp_path / "run", (0, 4, 9))
    hot = write_run(tmp_path / "hot", (4, 6, 8), origin(run, 4), lr=0.123456, save=[2])
    rescue = write_run(tmp_path / "rescue", (6, 7), origin(hot, 6), schedule="linear", freeze=["a", "b"])
    return run, hot, rescue


def test_parents_come_before_their_forks_whatever_the_order(folders: tuple[Path, Path, Path]) -> None:
    runs = forest(*folders[::-1]).runs
    assert runs.drop("folder", "revision").rows() == [
        ("run", None, None, "", 0, 9, 3),
        ("hot", "run", 4, "lr 0.1235", 4, 8, 3),
        ("rescue", "hot", 6, "schedule linear, freeze a, b", 6, 7, 2),
    ]
    alone = forest(folders[1]).runs
    assert alone["parent"].to_list() == [str(folders[0])] and alone["forked_at"].to_list() == [4]


def test_a_parent_that_was_moved_is_recognised_by_its_weights(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    shutil.move(folders[0], moved)
    assert forest(moved, folders[1]).parents == {"hot": "run"}
    (moved / "step4-tokens32" / "model.safetensors").write_bytes(b"other weights")
    assert forest(moved, folders[1]).parents == {}


def test_metrics_are_joined_along_ancestry(folders: tuple[Path, Path, Path]) -> None:
    found = forest(*folders)
    frame = found.metrics()
    steps = {run: part["step"].to_list() for (run,), part in frame.group_by("run", maintain_order=True)}
    assert steps == {"run": list(range(1, 10)), "hot": [4, 5, 6, 7, 8], "rescue": [6, 7]}
    first = frame.filter(run="hot", step=4)
    assert first.select("parent", "forked_at", "loss").rows() == [("run", 4, 3 + 1 / 4)], "the parent's own row"
    past = found.history(frame, "rescue")
    steps = {run: part["step"].to_list() for (run,), part in past.group_by("run", maintain_order=True)}
    assert steps == {"run": [1, 2, 3], "hot": [4, 5], "rescue": [6, 7]}
    assert found.history(frame, "run").height == 9
    with pytest.raises(OptionError, match=r"^run must be one of run, hot, rescue \(got 'cold'\)$"):
        found.history(frame, "cold")


def test_a_forks_own_row_at_its_beginning_is_kept(folders: tuple[Path, Path, Path]) -> None:
    frames = {"run": pl.DataFrame({"step": [0, 4, 9], "rms": [1.0, 2.0, 3.0]})}
    frames["hot"] = pl.DataFrame({"step": [4, 8], "rms": [2.5, 4.0]})
    assert forest(*folders).branched(frames).filter(run="hot")["rms"].to_list() == [2.5, 4.0]


def test_runs_of_one_name_are_distinguished_by_their_folders(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other" / "run", (0, 1))
    assert set(forest(folders[0], other).lines) == {f"{tmp_path.name}/run", "other/run"}


def test_the_description_of_a_run(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, hot, _ = map(read_line, folders)
    assert run and hot and run.description == "trained from scratch"
    assert hot.description == f"forked from {folders[0]}@step4-tokens32, lr 0.1235"
    assert read_line(tmp_path) is None and read_line(tmp_path / "none") is None


def test_folders_without_a_lineage_are_refused(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    start = "forest() needs folders of checkpoints with lineage.json, as training writes them "
    for given, came in (((), "none"), ((folders[0], tmp_path), str(tmp_path))):
        with pytest.raises(OptionError) as caught:
            forest(*given)
        assert str(caught.value) == f"{start}(got {came})"
    with pytest.raises(OptionError, match=r"^forest\(\) needs every folder once \(got one twice\)$"):
        forest(folders[0], folders[0])
    bare = Forest(forest(*folders).lines)
    with pytest.raises(
        OptionError,
        match=r"^a table of a forest needs at least one run that has it \(got none\); record the runs, or give",
    ):
        bare.table("parameters")
