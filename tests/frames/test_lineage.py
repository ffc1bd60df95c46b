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
from olmo_dynamics.frames import Forest, forest, open_store
from olmo_dynamics.frames.lineage import read_line, require_run_folder, run_folder
from olmo_dynamics.names import Revision
from olmo_dynamics.store import Store
from tests.store.synthetic import ATTRIBUTES, layout


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


def test_a_fork_is_a_line_that_begins_on_its_parents(folders: tuple[Path, Path, Path]) -> None:
    found = forest(*folders)
    lines = found.metrics().select("run", "line").unique(maintain_order=True).rows()
    assert lines == [("run", "run"), ("hot", "run/fork"), ("rescue", "run/fork/fork")]
    parent = pl.DataFrame({"step": [0, 4], "line": ["stage1", "stage2"], "rms": [1.0, 2.0]})
    joined = found.branched({"run": parent, "hot": pl.DataFrame({"step": [6], "line": ["run/fork"], "rms": [4.0]})})
    assert joined.select("run", "step", "line").rows() == [
        ("run", 0, "stage1"), ("run", 4, "stage2"), ("hot", 4, "run/fork"), ("hot", 6, "run/fork"),
    ]  # fmt: skip


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


class TestCopies:
    """The run, its fork and a store, made by relative paths, then copied elsewhere and read from another directory."""

    @pytest.fixture
    def copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The study in `copied/demo`; the first one is changed, and is at the path that the files name."""
        demo = tmp_path / "demo"
        run = write_run(demo / "run", (0, 4, 9))
        parent = origin(run, 4) | {"source": "demo/run"}
        for name, first in (("fork", b"run 4"), ("sibling", b"run 4")):
            write_run(demo / name, (4, 6), parent)
            (demo / name / "step4-tokens32" / "model.safetensors").write_bytes(first)
        store_of(demo / "store.zarr", run, "demo/run")
        shutil.copytree(demo, tmp_path / "copied" / "demo")
        for weights in demo.glob("run/*/model.safetensors"):
            weights.write_bytes(b"retrained")
        monkeypatch.chdir(tmp_path)
        return tmp_path / "copied" / "demo"

    def test_forks_find_the_parent_beside_them(self, copied: Path) -> None:
        assert forest(copied / "fork", copied / "run", copied / "sibling").parents == {"fork": "run", "sibling": "run"}
        assert forest(copied / "fork", copied / "sibling").parents == {}, "both began with the parent's weights"

    def test_a_store_finds_its_run_beside_it_and_not_another_at_the_path_it_names(self, copied: Path) -> None:
        store = open_store(copied / "store.zarr")
        assert run_folder(store) == require_run_folder(store, []) == copied / "run"
        shutil.move(copied / "store.zarr", copied.parents[1] / "store.zarr")
        store = open_store(copied.parents[1] / "store.zarr")
        assert run_folder(store) is None
        assert require_run_folder(store, [copied / "fork"]) == copied / "run"
        with pytest.raises(OptionError) as caught:
            require_run_folder(store, [])
        assert str(caught.value) == (
            f"the folder of the run in {store.path} must be at demo/run, or beside the store or the fork, with the weights that "
            "were measured; copy it there"
        )

    def test_stores_belong_to_the_run_whose_weights_they_hold(self, copied: Path, tmp_path: Path) -> None:
        run, fork = copied / "run", copied / "fork"
        own = store_of(tmp_path / "anywhere.zarr", fork, "no/such/folder")
        found = forest(run, fork, stores=[own]).open_stores()
        assert {name: store.path for name, store in found.items()} == {"run": copied / "store.zarr", "fork": own}
        assert forest(copied / "sibling").open_stores() == {}


def store_of(path: Path, run: Path, source: str) -> Path:
    """A store of a run's revisions with the hashes of their weights, and no numbers."""
    store = Store.create(
        path, layout=layout(("parameters",)), attributes=ATTRIBUTES | {"source": source}, probe_arrays={}
    )
    for folder in sorted(run.glob("step*")):
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        store.append(Revision(folder.name), [], dtype="F32", weights_sha256=digest)
    return path
