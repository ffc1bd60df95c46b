"""A store goes on with its run wherever the run is now, and with no other run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import olmo_dynamics as od
from olmo_dynamics.checkpoints import FolderSource, MemorySource, Source
from olmo_dynamics.checkpoints.identity import COMPARED_BYTES, Comparison, compare_weights, find_folder
from olmo_dynamics.errors import StoreMismatchError
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress
from olmo_dynamics.store import Store, identity

STEPS = (0, 100, 200, 300)


def files(value: float) -> dict[str, bytes]:
    weights = save({"model.norm.weight": np.full(4, value, np.float32)}, metadata={"format": "pt"})
    return {"config.json": b'{"model_type": "small"}', "model.safetensors": weights}


def write_run(folder: Path, values: Mapping[int, float]) -> Path:
    for step, value in values.items():
        place = folder / f"step{step}"
        place.mkdir(parents=True)
        for name, content in files(value).items():
            (place / name).write_bytes(content)
    return folder


def collect(run: str | Path | Source, out: str | Path, revisions: str = "all") -> od.RecordedStore:
    return od.collect(run, revisions=revisions, out=out, record=("parameters",), progress=Progress())


def refusal(run: str | Path | Source, out: str | Path) -> str:
    with pytest.raises(StoreMismatchError) as caught:
        collect(run, out)
    return str(caught.value)


def weights(run: Path) -> dict[str, str]:
    return {each.name: FolderSource(run).open(each).weights_sha256() for each in FolderSource(run).revisions()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a run in `runs/a`, and a store of its first two revisions."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a", {step: step + 1.0 for step in STEPS})
    collect("runs/a", "s.zarr", "first2")
    return tmp_path


@pytest.mark.parametrize("spelling", ["./runs/a/", "runs/../runs/a", "{here}/runs/a", "link"])
def test_another_spelling_of_the_path_is_the_same_run(spelling: str, here: Path) -> None:
    (here / "link").symlink_to("runs/a")
    assert collect(spelling.format(here=here), "s.zarr").done == {f"step{step}" for step in STEPS}


def test_a_run_goes_on_from_another_directory_and_after_a_move(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "runs")
    assert collect("a", "../s.zarr", "first3").attributes["source"] == "runs/a"
    monkeypatch.chdir(here)
    (here / "runs" / "a").rename(here / "renamed")
    store = collect("renamed", "s.zarr")
    assert store.done == {f"step{step}" for step in STEPS}
    assert store.attributes["source"] == "renamed", "the hint follows the run"


@pytest.mark.parametrize("changed", STEPS[:2])
def test_another_run_with_the_same_names_is_refused_by_the_revision_that_differs(changed: int, here: Path) -> None:
    other = write_run(here / "other", {step: -1.0 if step == changed else step + 1.0 for step in STEPS})
    held, found = (weights(run)[f"step{changed}"][:12] for run in (here / "runs" / "a", other))
    assert refusal("other", "s.zarr") == (
        f"s.zarr holds another run: step{changed} has weights of sha256 {held} there and {found} in other; collect it into "
        "another store"
    )
    shutil.rmtree(here / "runs" / "a")
    other.rename(here / "runs" / "a")
    assert refusal("runs/a", "s.zarr").startswith(f"s.zarr holds another run: step{changed} has"), (
        "at the same path too"
    )


def test_where_no_revision_can_be_compared_the_place_decides(here: Path) -> None:
    shutil.rmtree(here / "runs" / "a" / "step0")
    (here / "runs" / "a" / "step100" / "model.safetensors").unlink()
    assert collect("./runs/a", "s.zarr", "step200").done == {"step0", "step100", "step200"}
    shutil.rmtree(here / "runs" / "a" / "step200")
    (here / "runs" / "a").rename(here / "b")
    assert refusal("b", "s.zarr") == (
        "s.zarr was made from runs/a, and b has none of its 3 revisions to compare; give that run, or collect this one into "
        "another store"
    )


def test_an_empty_store_takes_any_run(here: Path) -> None:
    made = Store.open("s.zarr")
    Store.create("empty.zarr", layout=made.layout, attributes=made.attributes, probe_arrays={})
    assert collect(write_run(here / "b", {7: 7.0}), "empty.zarr").attributes["source"] == str(here / "b")


def test_a_relative_path_that_the_store_cannot_find_again_is_kept_whole(here: Path) -> None:
    assert collect("runs/a", here / "x" / "s.zarr").attributes["source"] == "runs/a"
    (here / "x" / "runs" / "a").mkdir(parents=True)
    assert collect("runs/a", here / "x" / "t.zarr").attributes["source"] == str(here / "runs" / "a")


def test_recordings_are_known_by_name_by_weights_and_by_the_folder_around_them(here: Path) -> None:
    first, second = {"step1": files(1.0)}, {"step1": files(1.0), "step2": files(2.0)}
    collect(MemorySource(first, "mine"), "m.zarr")
    assert collect(MemorySource({"step2": files(2.0)}, "mine"), "m.zarr").done == {"step1", "step2"}
    assert collect(MemorySource(second, "by weights"), "m.zarr").attributes["source"] == "mine"
    assert refusal(MemorySource({"step3": files(3.0)}, "other"), "m.zarr") == (
        "m.zarr was made from mine, and other has none of its 2 revisions to compare; give that run, or collect this one into "
        "another store"
    )
    collect(MemorySource(first, "forks/a"), "forks/a/store.zarr")
    (here / "forks").rename(here / "moved")
    store = collect(MemorySource({"step2": files(2.0)}, "moved/a"), "moved/a/store.zarr")
    assert store.done == {"step1", "step2"}


def test_the_weights_that_a_fork_began_with_do_not_make_it_its_parent(here: Path) -> None:
    fork = write_run(here / "fork", {100: 101.0, 150: 5.0})
    digest = weights(here / "runs" / "a")["step100"]
    (fork / "step100" / "lineage.json").write_text(f'{{"parent": {{"weights_sha256": "{digest}"}}}}')
    assert compare_weights(FolderSource(fork), {"step100": digest}) == Comparison()
    assert refusal("fork", "s.zarr").startswith("s.zarr was made from runs/a, and fork has none of its 2 revisions")
    (fork / "step100" / "lineage.json").write_text("[]")
    assert compare_weights(FolderSource(fork), {"step100": digest}) == Comparison(1)


def test_the_last_revision_is_compared_first_and_others_while_they_are_small(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FolderSource(here / "runs" / "a")
    held = weights(here / "runs" / "a")
    assert compare_weights(run, held).compared == 4
    assert compare_weights(run, held | {"step0": "x", "step300": "y"}) == Comparison(1, "step300", "y", held["step300"])
    size = sum(run.open(Revision("step0")).files.values())
    monkeypatch.setattr("olmo_dynamics.checkpoints.identity.COMPARED_BYTES", 2 * size)
    assert compare_weights(run, held | {"step200": ""}) == Comparison(3)
    assert compare_weights(run, held, limit=size - 1) == Comparison(), "too large to read, even alone"
    assert COMPARED_BYTES == 1 << 30


def test_a_folder_is_found_beside_the_file_that_names_it_then_where_it_was(here: Path) -> None:
    copy = here / "copy"
    shutil.copytree(here / "runs" / "a", copy / "a")
    found = [
        find_folder("runs/a", near=near, accept=Path.is_dir)
        for near in (here / "s.zarr", copy / "s.zarr", Path("/x/y"))
    ]
    assert found == [here / "runs" / "a", copy / "a", Path("runs/a")]
    assert find_folder(here / "gone", near=copy / "s.zarr", accept=lambda each: each == copy) == copy
    assert find_folder("nowhere", near=copy / "a" / "s.zarr", accept=lambda _: False) is None


def test_a_branch_that_moved_since_it_was_measured_is_named(here: Path) -> None:
    store = Store.open("s.zarr", mode="a")
    store.append(Revision("main", commit="a" * 40), [], dtype="F32", weights_sha256="0" * 64)
    listed = [Revision("main", commit="b" * 40), Revision("step0", commit="b" * 40), Revision("new", commit="c" * 40)]
    assert list(identity.moved_branches(store, listed)) == [
        "main was measured at commit aaaaaaaaaaaa and is at bbbbbbbbbbbb now; its row stays, collect it into another store to "
        "measure it anew"
    ]
