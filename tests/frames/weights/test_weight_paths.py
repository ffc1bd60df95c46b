"""Paths of a run, its fork and another seed: one plane, one table of pairs, and a fork that lies on its parent's path."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders.sketches import SketchRecorder

MIDDLE, LAST = "step9-tokens4608", "step20-tokens10240"


def sketched(run: Path, size: int):
    return od.collect(
        run, out=run.parent / f"{run.name}{size}.zarr", record=[SketchRecorder(size)], progress=Progress()
    )


@pytest.fixture(scope="module")
def demo(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small demo's run, and a fork of it that does what the run did."""
    out = tmp_path_factory.mktemp("paths")
    run = shutil.copytree(small_run, out, dirs_exist_ok=True) / "run"
    data = [out / "corpus" / "train.npy"]
    od.fork(run, MIDDLE, data=data, out=out / "fork", steps=11, save=(4,), progress=Progress())
    changes = {"lr": 3e-2, "schedule": "constant"}
    od.fork(run, MIDDLE, data=data, out=out / "hot", steps=11, save=(4,), progress=Progress(), **changes)
    return out


@pytest.fixture(scope="module")
def stores(demo: Path):
    return {name: sketched(demo / name, 256) for name in ("run", "fork", "hot")}


def test_the_demo_moves_as_its_sketches_say(demo: Path, stores) -> None:
    for by in ("tensor", "layer", "all"):
        estimates, exact = (
            od.displacement(each, by=by, exact=each is not stores["run"]) for each in (stores["run"], demo / "run")
        )
        assert estimates.height == exact.height
        keys = ["revision", *(name for name in ("tensor", "layer") if name in exact.columns)]
        both = estimates.join(exact, on=keys, nulls_equal=True, suffix="_exact").filter(pl.col("distance_exact") > 0)
        for name in ("distance", "relative", "cosine", "angle"):
            off, error = (both[name] - both[f"{name}_exact"]).abs(), both[f"{name}_se"]
            assert (off - 4.5 * error).max() < 1e-6, (by, name)


def test_a_fork_lies_on_its_parents_path(demo: Path, stores) -> None:
    """On one machine and in float32, a fork with no change repeats its parent bit by bit."""
    same = od.displacement(stores["fork"], (stores["run"], LAST)).filter(step=20)
    assert same["distance"].to_list() == [0.0] * same.height
    assert od.displacement(demo / "fork", (demo / "run", LAST), exact=True).filter(step=20)["distance"].max() == 0
    hot = od.displacement(stores["hot"], (stores["run"], LAST), by="all").filter(step=20)
    assert hot["relative"][0] > 10 * hot["relative_se"][0] > 0
    assert (
        od.between((stores["run"], LAST), (stores["hot"], hot["revision"][0]), by="all")["relative"][0]
        == hot["relative"][0]
    )


def test_a_run_and_its_forks_share_a_plane(stores) -> None:
    path = od.trajectory([stores["run"], stores["fork"], stores["hot"]])
    first = path.filter(component=1)
    at = {(run, step): place for run, step, place in first.select("run", "step", "coordinate").iter_rows()}
    assert at["fork256", 9] == pytest.approx(at["run256", 9]) and at["fork256", 20] == pytest.approx(at["run256", 20])
    assert abs(at["hot256", 20] - at["run256", 20]) > 1e-3
    assert od.trajectory({"a": stores["run"], "b": stores["hot"]})["run"].unique().sort().to_list() == ["a", "b"]
    assert "run" not in od.trajectory(stores["run"]).columns


def test_pairs_equal_displacements(stores) -> None:
    run = stores["run"]
    pairs = od.pairwise(run)
    assert pairs.height == len(run.done) ** 2
    for reference in (MIDDLE, LAST):
        moved = od.displacement(run, reference, by="all")
        found = pairs.filter(pl.col("revision") == reference).sort("other_step")
        for name in ("distance", "cosine", "angle", "distance_se", "cosine_se", "angle_se"):
            assert found[name].to_numpy() == pytest.approx(moved.sort("step")[name].to_numpy(), rel=1e-5, abs=1e-7), (
                name
            )
    both = od.pairwise([run, stores["hot"]], by="layer")
    assert both["group"].unique().sort().to_list() == ["0", "1"]
    across = both.filter(group="0", run="run256", other_run="hot256", step=20, other_step=20)
    alone = od.between((run, LAST), (stores["hot"], LAST), by="layer").filter(layer=0)
    assert across["distance"][0] == pytest.approx(alone["distance"][0], rel=1e-6)


def test_stores_that_cannot_be_joined(demo: Path, stores) -> None:
    small = sketched(demo / "fork", 64)
    run = stores["run"]
    ends = [f"{run.path}: 256", f"{small.path}: 64"]
    for call, (one, other) in (
        (lambda: od.displacement(small, (run, LAST)), ends[::-1]),
        (lambda: od.trajectory([run, small]), ends),
        (lambda: od.pairwise([run, small]), ends),
    ):
        with pytest.raises(OptionError) as told:
            call()
        assert str(told.value) == (
            f"sketches must have one size to be compared ({one}, {other}); collect one of the stores again"
        )
    with pytest.raises(OptionError, match=r"^stores must be given once each \(got .*run256.zarr, .*run256.zarr\)$"):
        od.trajectory([stores["run"], stores["run"]])
    with pytest.raises(OptionError, match=r"^at least one store must be given \(got none\)$"):
        od.pairwise([])


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "first", "last"), [
    ("olmo/tiny-olmo2", "step40-unsharded", "step80-unsharded"), ("olmo_core/tiny-olmo3", "step40", "step80"),
])  # fmt: skip
def test_the_fork_of_a_native_run_lies_on_its_path_to_rounding(
    shared: Path, folder: str, first: str, last: str, tmp_path: Path
) -> None:
    run = shared / "data" / "native" / folder
    data = [shared / "data" / "native" / "tokens" / "train.npy"]
    od.fork(run, first, data=data, out=tmp_path / "fork", steps=40, order="parent", progress=Progress())
    taken = od.displacement(run, first, exact=True, by="all").filter(step=80)["distance"][0]
    apart = od.displacement(tmp_path / "fork", (run, last), exact=True, by="all")["distance"].to_numpy()
    assert apart[-1] < 1e-4 * taken
    assert np.all(np.diff(apart) < 0)  # it comes nearer with every step that it saves
