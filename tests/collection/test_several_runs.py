"""Several runs measured into one folder: resumed, extended, and not ended by a bad one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError, SourceError, StoreError
from olmo_dynamics.frames import JoinedStore, RecordedStore
from olmo_dynamics.progress import Progress
from tests.runs import write_family_run, write_run

NAMES = ("step0", "step10")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one recipe, and a run of another family."""
    folder = tmp_path_factory.mktemp("runs")
    seeds = [write_run(folder / f"tiny-seed{seed}", NAMES) for seed in (1, 2)]
    return [*seeds, write_family_run(folder / "other", NAMES, "llama")]


def collect(runs: list[Path | str], out: Path) -> RecordedStore:
    return od.collect(runs, out=out, record=["parameters"], progress=Progress())


def test_runs_go_into_one_folder_each_with_its_own_config(runs: list[Path], tmp_path: Path) -> None:
    store = collect(runs, tmp_path / "all")
    assert isinstance(store, JoinedStore) and len(store.done) == 6
    labels = store.table("revisions").select("run", "recipe", "seed", "family").unique(maintain_order=True).rows()
    assert labels == [
        ("tiny-seed1", "tiny", "1", "olmo2"),
        ("tiny-seed2", "tiny", "2", "olmo2"),
        ("other", "other", None, "llama"),
    ]
    entries = json.loads((tmp_path / "all" / "zarr.json").read_text())["attributes"]["runs"]
    assert {name.rsplit("/", 1)[-1]: (each["group"], each["model_type"]) for name, each in entries.items()} == {
        "tiny-seed1": ("tiny-seed1", "olmo2"),
        "tiny-seed2": ("tiny-seed2", "olmo2"),
        "other": ("other", "llama"),
    }
    alone = od.collect(runs[0], out=tmp_path / "alone.zarr", record=["parameters"], progress=Progress())
    mine = store.table("parameters").filter(run="tiny-seed1").select("tensor", "step", "rms")
    assert mine.equals(alone.table("parameters").select("tensor", "step", "rms"))
    assert od.open_store(tmp_path / "all").table("parameters").equals(store.table("parameters"))
    assert store.check().damages == ()


def test_a_bad_run_is_named_and_does_not_end_the_others(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all"
    missing = str(tmp_path / "absent")
    with pytest.raises(
        SourceError, match=rf"^1 run of 3 could not be measured wholly \({re.escape(missing)}: .*\); all others"
    ):
        collect([runs[0], missing, runs[2]], out)
    assert {run.name for run in od.open_store(out).runs} == {"tiny-seed1", "other"}  # type: ignore[attr-defined]
    before = (out / "other" / "zarr.json").read_bytes()
    again = od.collect(runs[1], out=out, record=["parameters"], progress=Progress())  # one more run
    assert len(again.done) == 6 and (out / "other" / "zarr.json").read_bytes() == before


def test_folders_of_runs_and_stores_are_not_taken_for_each_other(runs: list[Path], tmp_path: Path) -> None:
    od.collect(runs[0], out=tmp_path / "one.zarr", record=["parameters"], revisions="step0", progress=Progress())
    message = "--out must be a new folder, or a folder of runs, for several runs"
    with pytest.raises(OptionError, match=f"^{message}"):
        collect(runs[:2], tmp_path / "one.zarr")
    with pytest.raises(OptionError, match=r"^each run must be given once \(got .*tiny-seed1 2 times\)$"):
        collect([runs[0], runs[0]], tmp_path / "two")
    with pytest.raises(SourceError):
        collect([str(tmp_path / "absent"), str(tmp_path / "gone")], tmp_path / "none")
    with pytest.raises(StoreError, match=r"holds no store of its runs yet; run olmo-dyn collect again$"):
        od.open_store(tmp_path / "none")
