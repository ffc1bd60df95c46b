"""A fork with its metrics and recordings: told the same whether it was watched, stopped, or read from its folder."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal
from safetensors.torch import load_file

import olmo_dynamics as od
from olmo_dynamics.cli import cli
from olmo_dynamics.errors import CheckpointError, OptionError
from olmo_dynamics.forks import ForkMonitoring, MonitoredForkKeywords
from olmo_dynamics.progress import Progress
from olmo_dynamics.reporting import render_report
from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.trainer import Event
from tests.conftest import ROOT

PARENT = "step9-tokens4608"
RECORD = {"record": "parameters, activations", "every": 3, "measure": {"batch": "2x16"}}
CURVE = ("step", "tokens", "loss", "gradient_norm", "learning_rate")


@pytest.fixture(scope="module")
def demo(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The small demo's run, and its tokens; read them, never change them."""
    out = tmp_path_factory.mktemp("demo")
    run = shutil.copytree(small_run, out, dirs_exist_ok=True) / "run"
    return run, out / "corpus" / "train.npy"


def fork(demo: tuple[Path, Path], out: Path, **options: object) -> Path:
    run, data = demo
    od.fork(run, PARENT, data=[data], out=out, steps=8, **{"progress": Progress(), **options})
    return out


def last_weights(folder: Path) -> dict[str, object]:
    return load_file(folder / "step17-tokens8704" / "model.safetensors")


def test_recording_gives_what_collect_gives_and_disturbs_nothing(demo: tuple[Path, Path], tmp_path: Path) -> None:
    folder = fork(demo, tmp_path / "recorded", **RECORD)
    recorded = od.open_store(folder / "store.zarr")
    assert recorded.table("revisions")["step"].to_list() == [9, 12, 15, 17] and recorded.is_compact
    options = {"record": ("parameters", "activations"), "batch": "2x16", "progress": Progress()}
    collected = od.collect(folder, out=tmp_path / "collected.zarr", **options)
    steps = recorded.table("revisions")["step"]
    for name in recorded.tables:
        ours, theirs = (store.table(name).drop("collected_at", strict=False) for store in (recorded, collected))
        assert_frame_equal(ours, theirs.filter(pl.col("step").is_in(steps)), check_exact=True)
    od.collect(folder, out=folder / "store.zarr", **options)  # the very same store: it goes on
    assert len(od.open_store(folder / "store.zarr").done) == 9

    plain = fork(demo, tmp_path / "plain")
    assert_frame_equal(od.metrics(plain).select(CURVE), od.metrics(folder).select(CURVE), check_exact=True)
    assert all((last_weights(plain)[name] == value).all() for name, value in last_weights(folder).items())


class Spread(od.Recorder):
    """Standard deviations of weights, which need no text."""

    group = od.Group("spread", ("tensor",), "Spread of weights.", (od.Quantity("deviation", formula="std(x)"),))
    reads = od.Reads.WEIGHTS

    def __init__(self) -> None:
        self.records: list[object] = []

    def observe(self, seen: od.Observation) -> None:
        deviation = float(seen.values.double().std(correction=0))
        self.records.append(self.record("deviation", deviation, tensor=seen.tensor.name))

    def finish(self) -> list[object]:
        return self.records


def test_a_recorder_of_ones_own_needs_no_text_for_weights(demo: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = demo
    shutil.copytree(run / PARENT, tmp_path / "run" / PARENT)
    (tmp_path / "run" / PARENT / "tokenizer.json").unlink()
    options = {"record": ["parameters", Spread], "progress": Progress()}
    od.fork(tmp_path / "run", PARENT, data=[data], out=tmp_path / "out", steps=2, **options)
    store = od.open_store(tmp_path / "out" / "store.zarr")
    own, built_in = store.table("spread"), store.table("parameters")
    assert own["deviation"].to_list() == pytest.approx(built_in["std"].to_list(), rel=1e-12)
    assert own["step"].unique().sort().to_list() == [9, 11]


def test_the_live_state_of_an_optimiser_is_that_of_the_checkpoints(demo: tuple[Path, Path], tmp_path: Path) -> None:
    folder = fork(demo, tmp_path / "out", save=(4,), record="optimizer", every=4)
    collected = od.collect(folder, out=tmp_path / "s.zarr", record="optimizer", progress=Progress())
    for name in ("optimizer", "optimizer.exp_avg_sketch", "optimizer.learning_rate"):
        assert_frame_equal(od.open_store(folder / "store.zarr").table(name), collected.table(name), check_exact=True)
    assert collected.table("optimizer")["step"].unique().sort().to_list() == [9, 13, 17]


def test_metrics_of_a_fork_continue_its_parents(demo: tuple[Path, Path], tmp_path: Path) -> None:
    frame = od.metrics(fork(demo, tmp_path / "a"))
    parents = od.metrics(demo[0]).filter(pl.col("step").is_between(10, 17))
    assert_frame_equal(frame.select(CURVE), parents.select(CURVE), check_exact=True)
    assert (frame["tokens_per_second"] > 0).all() and (frame["memory_bytes"] > 50 << 20).all()


KILLED = """
import os, signal, sys
from pathlib import Path
import olmo_dynamics as od
from olmo_dynamics.progress import Progress

def kill(event):
    if event.step == 14:
        os.kill(os.getpid(), signal.SIGKILL)

run, data, out = map(Path, sys.argv[1:])
od.fork(run, %r, data=[data], out=out, steps=8, save=(3,), record="parameters", every=2, callbacks=[kill], progress=Progress())
"""


def test_after_sigkill_the_curve_and_the_store_are_those_of_an_undisturbed_fork(
    demo: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    code = [sys.executable, "-c", KILLED % PARENT, *map(str, (*demo, out))]
    assert subprocess.run(code, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert od.metrics(out)["step"].to_list() == [10, 11, 12]  # as far as the checkpoint of step 12
    fork(demo, out, save=(3,), record="parameters", every=2)
    whole = fork(demo, tmp_path / "whole", save=(3,), record="parameters", every=2)
    assert_frame_equal(od.metrics(out).select(CURVE), od.metrics(whole).select(CURVE), check_exact=True)
    one, other = (od.open_store(folder / "store.zarr").table("parameters") for folder in (out, whole))
    assert one["step"].unique().sort().to_list() == [9, 11, 13, 15, 17]
    assert_frame_equal(one, other, check_exact=True)


def test_only_the_first_and_the_latest_are_kept(demo: tuple[Path, Path], tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def look(event: Event) -> None:
        seen.append({path.name.partition("-")[0] for path in tmp_path.glob("a/step*")})

    out = fork(demo, tmp_path / "a", keep=2, callbacks=[look])
    assert {path.name.partition("-")[0] for path in out.glob("step*")} == {"step9", "step16", "step17"}
    assert seen[3] == {"step9", "step11", "step12"}  # while step 13 was under way
    assert not (out / ".partial").exists()
    assert fork(demo, out, keep=2) and len(list(out.glob("step*"))) == 3
    with pytest.raises(OptionError, match=r"^keep must be at least 1 \(got 0\)$"):
        fork(demo, tmp_path / "b", keep=0)
    assert not (tmp_path / "b").exists()


def test_a_forks_folder_is_a_source_like_any_other(demo: tuple[Path, Path], tmp_path: Path) -> None:
    folder = fork(demo, tmp_path / "anneal", schedule="linear", save=(4,), record="activations", every=4,
                  measure={"batch": "2x16"})  # fmt: skip
    assert od.Run(folder).revisions["step"].to_list() == [9, 13, 17]
    again = tmp_path / "again"
    od.fork(folder, "step13-tokens6656", data=[demo[1]], out=again, steps=2, lr=1e-3, progress=Progress())
    parent = od.collect(
        demo[0], out=tmp_path / "parent.zarr", record=("activations",), batch="2x16", progress=Progress()
    )

    found = od.forest(demo[0], folder, again, stores=[parent.path])
    assert found.parents == {"anneal": "run", "again": "anneal"}
    assert found.runs["overrides"].to_list() == ["", "schedule linear", "lr 0.001"]
    recorded = found.table("activations").filter(site="residual_out", layer=0)
    assert recorded.filter(run="anneal")["step"].to_list() == [9, 13, 17]
    assert recorded.filter(step=9)["rms"].n_unique() == 1, "the fork begins with its parent's numbers"

    lineage = f"forked from {demo[0]}@{PARENT}, schedule linear"
    store = od.open_store(folder / "store.zarr")
    assert lineage in render_report(store)
    text = render_report(parent, forks=[folder, again])
    for title in ("training loss", "gradient norm", "learning rate", "the residual stream"):
        assert f">A run and its forks: {title}</h3>" in text
    runner = CliRunner().invoke(cli, ["report", str(store.path), "--out", str(tmp_path / "r.html"), "--format", "json"])
    assert json.loads(runner.stdout)["lineage"] == lineage
    assert "trained from scratch" in render_report(parent)


def test_a_damaged_lineage_or_table_is_named_and_not_needed_twice(demo: tuple[Path, Path], tmp_path: Path) -> None:
    folder = fork(demo, tmp_path / "a", save=(3,))
    found = od.forest(folder).runs
    paths = [folder / name / "lineage.json" for name in (PARENT, "step12-tokens6144", "step17-tokens8704")]
    paths[0].write_text("garbage")
    assert od.forest(folder).runs.equals(found)
    for path in paths[1:]:
        path.write_text("[]")
    with pytest.raises(CheckpointError) as caught:
        od.forest(folder)
    assert str(caught.value).startswith(f"{paths[0]} must be JSON (got b'garbage': ")
    table = folder / "metrics.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(OptionError) as told:
        od.metrics(folder)
    assert str(told.value) == (
        f"{table} must be a table of metrics, but is damaged: delete it; a fork resumes without its rows"
    )


class Listener(Progress):
    """Keeps its calls."""

    def __init__(self) -> None:
        self.expected, self.steps, self.names, self.finished = (0, 0), 0, [""], [""]

    def expect(self, *, revisions: int, nbytes: int) -> None:
        self.expected = (revisions, nbytes)

    def begin(self, name: str) -> None:
        self.names.append(name)

    def advance(self, nbytes: int) -> None:
        self.steps += nbytes

    def finish(self, name: str) -> None:
        self.finished.append(name)


def test_a_progress_listener_gets_steps_loss_and_rate(demo: tuple[Path, Path], tmp_path: Path) -> None:
    listener = Listener()
    folder = fork(demo, tmp_path / "a", save=(3,), progress=listener)
    assert (listener.expected, listener.steps) == ((2, 8), 8)
    assert listener.finished[1:] == ["step12-tokens6144", "step17-tokens8704"]
    loss = od.metrics(folder)["loss"][-1]
    assert listener.names[-1].startswith(f"loss {loss:.3f}  ") and listener.names[-1].endswith(" tokens/s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": "bananas"}, r"^no group 'bananas' to record; there are parameters, "),
        ({"record": Spread}, r"^record must be a list of groups and recorders, such as \['loss', Mine\]; got <class"),
        (
            {"record": "loss"},
            r"^recording loss reads text and the revision has no tokenizer\.json: give --tokenizer FILE, or",
        ),
        ({"tensorboard": "board"}, r"^TensorBoard is not installed: pip install "),
        ({"wandb": "project"}, r"^Weights & Biases is not installed: pip install "),
    ],
)
def test_monitoring_that_cannot_be_leaves_nothing_behind(
    demo: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], message: str
) -> None:
    run, data = demo
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    shutil.copytree(run / PARENT, tmp_path / "run" / PARENT)
    (tmp_path / "run" / PARENT / "tokenizer.json").unlink()
    with pytest.raises(OptionError, match=message):
        od.fork(tmp_path / "run", PARENT, data=[data], out=tmp_path / "out", steps=2, progress=Progress(), **options)
    assert not (tmp_path / "out").exists()


QUIET = """
import sys
from pathlib import Path
import olmo_dynamics as od
from olmo_dynamics.progress import Progress

run, data, out = map(Path, sys.argv[1:])
od.fork(run, %r, data=[data], out=out, steps=1, progress=Progress())
unneeded = tuple(f"olmo_dynamics.{room}" for room in ("recorders", "auditing", "collection"))
loaded = [name for name in sys.modules if name.startswith(unneeded)]
assert not loaded, loaded
"""


def test_a_fork_that_records_nothing_loads_nothing_that_records(demo: tuple[Path, Path], tmp_path: Path) -> None:
    code = [sys.executable, "-c", QUIET % PARENT, *map(str, (*demo, tmp_path / "a"))]
    subprocess.run(code, cwd=ROOT, check=True)


def test_keywords_of_a_fork_are_its_options() -> None:
    keywords = {name: each.__forward_arg__ for name, each in MonitoredForkKeywords.__annotations__.items()}
    assert keywords == {**ForkOptions.__annotations__, **ForkMonitoring.__annotations__}
    with pytest.raises(OptionError, match=r"^unknown option 'recrod'; did you mean 'record'\?$"):
        od.fork("nowhere", "step1", data=["a"], out="b", steps=1, recrod="loss")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match=r"^unknown option 'dry_rum'; did you mean 'dry_run'\?$"):
        od.fork("nowhere", "step1", data=["a"], out="b", steps=1, dry_rum=True)  # type: ignore[call-arg]


def test_a_step_to_record_at_must_exist(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"^every must be at least 1 \(got 0\)$"):
        od.fork("nowhere", "step1", data=["a"], out=tmp_path, steps=1, every=0)


def test_a_revision_is_named_by_its_name_its_place_or_itself(demo: tuple[Path, Path], tmp_path: Path) -> None:
    run, options = od.Run(demo[0]), {"data": [demo[1]], "out": tmp_path / "none", "steps": 1, "dry_run": True}
    place = run.revisions["revision"].to_list().index(PARENT)
    begun = [od.fork(run, each, **options).plan.begin for each in (PARENT, place, place - len(run), run.at(step=9))]
    assert begun == [9, 9, 9, 9] and not (tmp_path / "none").exists()
