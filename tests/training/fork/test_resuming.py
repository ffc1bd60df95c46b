"""A fork that is killed goes on bit for bit; other files, other moments and a full disk are one line and cost nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from olmo_dynamics.errors import CheckpointError, DiskFullError, TrainingError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.checkpoint import CheckpointWriter
from olmo_dynamics.training.checkpoint_reader import read_checkpoint
from olmo_dynamics.training.fork.run import fork, next_batches
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import train

ROOT = Path(__file__).resolve().parents[3]
CHANGES: dict[str, Any] = {
    "steps": 20,
    "save": (10,),
    "schedule": "wsd",
    "batch_warmup": ((5, 6), (15, 8)),
    "batch_lr": "sqrt",
    "mask_documents": True,
    "zero_feature": (3,),
    "eval_every": 7,
}

KILLED = f"""
import os, signal, sys
from olmo_dynamics.training.fork.run import fork

def kill(event):
    if event.step == 18:
        os.kill(os.getpid(), signal.SIGKILL)

run, data, out = sys.argv[1:]
fork(run, "step5-tokens320", data=[data], out=out, eval=(data,), callbacks=lambda *_: [kill], **{CHANGES!r})
"""


@pytest.fixture
def run(tmp_path: Path, config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> tuple[Path, Path]:
    """A run of ours with checkpoints at 5 and 10, and its tokens."""
    saved = Recipe(**{**recipe.to_json(), "betas": recipe.betas, "no_decay": recipe.no_decay, "save_at": (5, 10)})
    folder, data = tmp_path / "run", tmp_path / "train.bin"
    tokens.tofile(data)
    folder.mkdir()
    train(new_state(config, saved), saved, tokens, callbacks=[CheckpointWriter(folder, saved, None, {"parent": None})])
    return folder, data


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "training_state" / "optimizer.safetensors")}


def test_twenty_steps_are_ten_a_kill_and_ten(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    whole = fork(parent, "step5-tokens320", data=[data], out=tmp_path / "whole", eval=(str(data),), **CHANGES)
    words = [sys.executable, "-c", KILLED, str(parent), str(data), str(tmp_path / "halves")]
    killed = subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    names = sorted(path.parent.name for path in (tmp_path / "halves").glob("*/lineage.json"))
    assert [name.partition("-")[0] for name in names] == ["step15", "step5"]
    again = fork(parent, "step5-tokens320", data=[data], out=tmp_path / "halves", eval=(str(data),), **CHANGES)
    assert whole.folder is not None and again.folder is not None and again.expected_from == "resumed"
    assert whole.folder.name == again.folder.name == f"step25-tokens{320 + 16 * (5 * 4 + 10 * 6 + 5 * 8)}"
    wanted, found = weights_of(whole.folder), weights_of(again.folder)
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    table = (tmp_path / "whole" / "evaluation.csv").read_text()
    assert table == (tmp_path / "halves" / "evaluation.csv").read_text()
    assert [int(line.split(",")[0]) for line in table.splitlines()[1:]] == [5, 12, 19, 25]
    lineage = json.loads((again.folder / "lineage.json").read_bytes())
    assert lineage["edits"]["model.norm.weight"] == {"changed": 1, "zeroed": 1}
    assert lineage["first_batch"]["loss_edited"] != lineage["first_batch"]["loss"]
    assert ("weights edited", "replaced", "zero feature 3") in [
        (each["name"], each["status"], each["value"]) for each in lineage["fields"]
    ]
    step, [batch] = next_batches(tmp_path / "whole", whole.folder.name, data=[data], step=20)
    assert step == 20 and np.array_equal(batch.token_ids, whole.plan.batches.batch(14).token_ids)
    with pytest.raises(TrainingError, match=r"^this run read its data from step 6 on \(got step 5\): use its parent$"):
        next_batches(tmp_path / "whole", whole.folder.name, data=[data], step=5)


def test_other_contents_under_the_same_name_are_noticed(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    given: dict[str, Any] = {"data": [data], "out": tmp_path / "out", "steps": 2}
    made = fork(parent, "step5-tokens320", **given)
    raw = np.fromfile(data, np.uint16)
    raw[-1] += 1
    raw.tofile(data)
    with pytest.raises(
        TrainingError, match=r"out must hold this fork or nothing, but holds another run: choose another"
    ):
        fork(parent, "step5-tokens320", **given)
    with pytest.raises(TrainingError) as caught:
        fork(tmp_path / "out", made.folder.name if made.folder else "", **{**given, "out": tmp_path / "more"})
    assert str(caught.value) == (
        "order parent needs the parent's 1 files in its order, train.bin first (got 1, train.bin first, "
        "with other contents): give those, or choose --order olmo, olmo-core, sequential or shuffled"
    )


def test_moments_of_another_shape_are_one_line(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    folder = parent / "step5-tokens320"
    without_hashes(folder)
    path = folder / "training_state" / "optimizer.safetensors"
    moments = load(path.read_bytes())  # load_file maps the file, which is written anew
    for changed, message in (
        ({"model.norm.weight.exp_avg": torch.zeros(5)}, "must have the shape [24] (got [5])"),
        ({"model.norm.weight.exp_avg": None}, "must have a step and two moments (got ['exp_avg_sq', 'step'])"),
        ({"odd.step": torch.tensor(1.0)}, "must have the shape of a parameter (got [])"),
    ):
        save_file({name: each for name, each in {**moments, **changed}.items() if each is not None}, path)
        [name] = changed
        name = name if "shape" in message else name.removesuffix(".exp_avg")
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(folder)
        assert str(caught.value) == (
            f"{parent}@step5-tokens320: training_state/optimizer.safetensors: {name} {message}: delete this checkpoint and "
            "resume from an earlier one"
        )
    save_file({**moments, "model.norm.weight.exp_avg": torch.zeros(5)}, path)
    with pytest.raises(
        TrainingError, match=r"model\.norm\.weight must have a step and two moments of shape \[24\] \(got .*\): choose"
    ):
        fork(parent, "step5-tokens320", data=[data], steps=2, out=tmp_path / "new")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"optimizer\.safetensors is damaged \(.*\): choose another revision"):
        fork(parent, "step5-tokens320", data=[data], steps=2, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def without_hashes(folder: Path) -> None:
    """Make a checkpoint one that version 0.1.0 wrote."""
    (folder / "training_state" / "SHA256SUMS").unlink()
    path = folder / "training_state" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state_version": 1}))


def test_a_damaged_last_checkpoint_is_written_again_from_the_one_before(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    given: dict[str, Any] = {"data": [data], "out": tmp_path / "out", "steps": 3, "save": (1, 2)}
    last = fork(parent, "step5-tokens320", **given).folder
    assert last is not None
    wanted = {path: path.read_bytes() for path in last.rglob("*") if path.is_file()}
    for name in ("lineage.json", "training_state/state.json"):  # flipped in the last two, then gone
        raw = bytearray((last / name).read_bytes())
        raw[40] ^= 4
        (last / name).write_bytes(raw)
    (last.with_name("step7-tokens448") / "model.safetensors").unlink()
    again = fork(parent, "step5-tokens320", **given)
    assert again.expected_from == "resumed" and again.plan.notes == (
        f"left out a checkpoint, resuming from step6-tokens384 before it: {tmp_path / 'out'}@step8-tokens512: lineage.json is "
        "damaged (its sha256 is not the one in training_state/SHA256SUMS): choose another checkpoint, or copy this one again",
        f"left out a checkpoint, resuming from step6-tokens384 before it: {tmp_path / 'out'}@step7-tokens448: "
        "model.safetensors is missing: choose another checkpoint, or copy this one again",
    )
    assert {path: path.read_bytes() for path in last.rglob("*") if path.is_file()} == wanted
    assert (last.with_name("step7-tokens448") / "model.safetensors").exists() and not (
        tmp_path / "out/.partial"
    ).exists()
    for folder in (tmp_path / "out").glob("step*"):
        (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        fork(parent, "step5-tokens320", **given)
    assert str(caught.value) == (
        f"{tmp_path / 'out'} must hold a sound checkpoint to resume from, but all 4 are damaged: choose another --out, or delete "
        f"them to begin again; the newest: {tmp_path / 'out'}@step8-tokens512: config.json is damaged (its sha256 is not the "
        "one in training_state/SHA256SUMS): choose another checkpoint, or copy this one again"
    )


def test_a_fork_of_an_older_version_resumes_unverified(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    given: dict[str, Any] = {"data": [data], "steps": 3, "save": (1,)}
    whole = fork(parent, "step5-tokens320", out=tmp_path / "whole", **given)
    fork(parent, "step5-tokens320", out=tmp_path / "old", **given)
    shutil.rmtree(tmp_path / "old" / "step8-tokens512")
    for folder in (tmp_path / "old").glob("step*"):
        without_hashes(folder)
    again = fork(parent, "step5-tokens320", out=tmp_path / "old", **given)
    assert again.plan.notes == (
        "step6-tokens384 has no training_state/SHA256SUMS (version 0.1.0 wrote none): resuming from it unverified",
    )
    assert whole.folder is not None and again.folder is not None
    wanted, found = weights_of(whole.folder), weights_of(again.folder)
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_full_disk_keeps_finished_checkpoints_and_the_fork_resumes(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, data = run
    given: dict[str, Any] = {"data": [data], "steps": 4, "save": (2,)}
    synced = os.fsync

    def full(descriptor: int) -> None:
        if (tmp_path / "out" / ".partial" / "step9-tokens576").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        DiskFullError, match=r"^no space for .*step9-tokens576: free some space and run again; finished checkpoints "
    ):
        fork(parent, "step5-tokens320", out=tmp_path / "out", **given)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"step5-tokens320", "step7-tokens448"} <= names and "step9-tokens576" not in names
    monkeypatch.setattr(os, "fsync", synced)
    again = fork(parent, "step5-tokens320", out=tmp_path / "out", **given)
    whole = fork(parent, "step5-tokens320", out=tmp_path / "whole", **given)
    found, wanted = weights_of(again.folder or Path()), weights_of(whole.folder or Path())
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_sequence_is_read_once(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    with pytest.raises(
        TrainingError, match=r"^the data end after 31 of the 32 steps of this fork: give more data, fewer"
    ):
        fork(parent, "step5-tokens320", data=[data], out=tmp_path, steps=32, order="sequential", dry_run=True)


def test_a_damaged_table_of_losses_is_named(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    given: dict[str, Any] = {"data": [data], "out": tmp_path / "out", "steps": 1, "eval": (str(data),)}
    fork(parent, "step5-tokens320", **given)
    table = tmp_path / "out" / "evaluation.csv"
    for text in ("", "garbage\n", "step,tokens,file,loss\n5,320\n", "step,tokens,file,loss\nx,320,a,5.0\n"):
        table.write_text(text)
        with pytest.raises(TrainingError) as caught:
            fork(parent, "step5-tokens320", **given)
        assert str(caught.value) == (
            f"{table} must be a table of step, tokens, file, loss, but is damaged: delete it to resume without its losses"
        )


_SAVING = {**CHANGES, "save": tuple(range(20))}
RESUMED = f"""
import sys
from olmo_dynamics.training.fork.run import fork

run, data, out = sys.argv[1:]
fork(run, "step5-tokens320", data=[data], out=out, eval=(data,), keep=3, **{_SAVING!r})
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_twelve_kills_at_random_moments_the_fork_is_the_undisturbed_one(
    run: tuple[Path, Path], tmp_path: Path
) -> None:
    parent, data = run
    out, draw = tmp_path / "killed", np.random.default_rng(0)
    words = [sys.executable, "-c", RESUMED, str(parent), str(data), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for _ in range(12):
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        before = set(out.glob("step*"))
        while process.poll() is None and set(out.glob("step*")) == before:
            time.sleep(0.001)  # until it has resumed, and begins its next checkpoint
        time.sleep(draw.uniform(0, 0.06))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        assert all(read_checkpoint(folder)[0].step >= 5 for folder in out.glob("step*"))
    given: dict[str, Any] = {**CHANGES, "save": tuple(range(20)), "keep": 3, "eval": (str(data),)}
    again = fork(parent, "step5-tokens320", data=[data], out=out, **given)
    whole = fork(parent, "step5-tokens320", data=[data], out=tmp_path / "whole", **given)
    assert again.folder is not None and whole.folder is not None and again.plan.notes == ()
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "whole").iterdir())
    for path in whole.folder.rglob("*"):
        if path.is_file():
            assert (again.folder / path.relative_to(whole.folder)).read_bytes() == path.read_bytes(), path
    assert (out / "evaluation.csv").read_text() == (tmp_path / "whole" / "evaluation.csv").read_text()
