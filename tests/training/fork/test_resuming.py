"""A fork that is killed goes on bit for bit; other files, other moments and a full disk are one line and cost nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file

from olmo_dynamics.errors import CheckpointError, DiskFullError, TrainingError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.checkpoint import CheckpointWriter
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
    given: dict[str, Any] = {"data": [data], "steps": 2}
    made = fork(parent, "step5-tokens320", out=tmp_path / "out", save=(1,), **given)
    assert made.folder is not None
    for folder in (parent / "step5-tokens320", made.folder):
        path = folder / "training_state" / "optimizer.safetensors"
        moments = load_file(path)
        moments["model.norm.weight.exp_avg"] = torch.zeros(5)
        save_file(moments, path)
    with pytest.raises(
        TrainingError, match=r"model\.norm\.weight must have a step and two moments of shape \[24\] \(got .*\): choose"
    ):
        fork(parent, "step5-tokens320", out=tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight\.exp_avg must have the shape \[24\] \(got \[5\]\): delete this"
    ):
        fork(parent, "step5-tokens320", out=tmp_path / "out", save=(1,), **given)
    assert len(list((tmp_path / "out").glob("*/lineage.json"))) == 3


def test_a_state_that_is_damaged_is_one_line(run: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = run
    given: dict[str, Any] = {"data": [data], "steps": 2}
    made = fork(parent, "step5-tokens320", out=tmp_path / "out", **given)
    assert made.folder is not None
    path = made.folder / "training_state" / "optimizer.safetensors"
    whole = path.read_bytes()
    moments = load(whole)  # load_file maps the file, which is cut now
    path.write_bytes(whole[:100])
    with pytest.raises(
        CheckpointError,
        match=r"optimizer\.safetensors is damaged \(.*\): delete this checkpoint and resume from an ear",
    ):
        fork(parent, "step5-tokens320", out=tmp_path / "out", **given)
    with pytest.raises(TrainingError, match=r"optimizer\.safetensors is damaged \(.*\): choose another revision"):
        fork(tmp_path / "out", made.folder.name, out=tmp_path / "new", schedule="constant", **given)
    del moments["model.norm.weight.exp_avg"]  # AdamW would begin with one of zeros, and say nothing
    save_file(moments, path)
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight must have a step and two moments \(got \['exp_avg_sq', 'st"
    ):
        fork(parent, "step5-tokens320", out=tmp_path / "out", **given)
    assert not (tmp_path / "new").exists() and path.exists()


def test_a_full_disk_keeps_finished_checkpoints_and_the_fork_resumes(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, data = run
    given: dict[str, Any] = {"data": [data], "steps": 4, "save": (2,)}
    synced = os.fsync

    def full(descriptor: int) -> None:
        if len(list((tmp_path / "out").glob("*/lineage.json"))) == 2:
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
