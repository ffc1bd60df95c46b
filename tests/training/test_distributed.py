"""Several processes train as one does: the same losses, checkpoints that either goes on from, one end for all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.model.config import Experts
from olmo_dynamics.training.checkpoint import CheckpointWriter, written_checkpoints
from olmo_dynamics.training.distributed import check_process_count, open_process_group
from olmo_dynamics.training.fork.run import fork
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import Event, train

ROOT = Path(__file__).resolve().parents[2]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]

JOBS = """
import json, sys
from pathlib import Path
from olmo_dynamics.training.fork.run import fork
from olmo_dynamics.settings import launched

for name, (parent, data, out, changes) in json.loads(Path(sys.argv[1]).read_text()).items():
    rows = []
    listen = lambda event: rows.append((event.step, event.loss, event.gradient_norm, event.tokens_seen))
    fork(parent, "step5-tokens320", data=[data], out=out, callbacks=lambda *_: [listen], **changes)
    Path(f"{out}-rank{launched().rank}.json").write_text(json.dumps(rows))
"""

CHANGES: dict[str, dict[str, Any]] = {
    "plain": {"eval_every": 2},
    "resumed": {},
    "frozen": {"moments": "zero", "freeze": ("*layers.0*",), "activation_checkpointing": True, "mask_documents": True},
    "bfloat16": {"dtype": "bfloat16"},
    "experts": {
        "micro_batch": 1
    },  # the balance depends on micro-batches: they must be the same for one process and two
}
SAME: dict[str, Any] = {"steps": 6, "save": (3,), "batch_warmup": ((4, 6),)}


def write_parent(folder: Path, config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> Path:
    saved = replace(recipe, save_at=(5,))
    folder.mkdir()
    train(new_state(config, saved), saved, tokens, callbacks=[CheckpointWriter(folder, saved, None, {"parent": None})])
    return folder


@pytest.fixture
def parents(tmp_path: Path, config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> dict[str, Path]:
    """A model of OLMo 2, and one with experts."""
    tokens.tofile(tmp_path / "train.bin")
    routed = replace(config, model_type="olmoe", experts=Experts(count=4, per_token=2, renormalized=False))
    return {
        "dense": write_parent(tmp_path / "dense", config, recipe, tokens),
        "experts": write_parent(tmp_path / "routed", routed, recipe, tokens),
    }


def one(parent: Path, data: Path, out: Path, changes: dict[str, Any]) -> list[tuple[int, float, float, int]]:
    rows: list[tuple[int, float, float, int]] = []

    def listen(event: Event) -> None:
        rows.append((event.step, event.loss, event.gradient_norm, event.tokens_seen))

    fork(parent, "step5-tokens320", data=[data], out=out, callbacks=lambda *_: [listen], **changes)
    return rows


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "training_state" / "optimizer.safetensors")}


def test_two_processes_are_one(parents: dict[str, Path], tmp_path: Path) -> None:
    data, alone, jobs = tmp_path / "train.bin", {}, {}
    for name, changes in CHANGES.items():
        parent = parents.get(name, parents["dense"])
        given = {**SAME, **changes, "eval": (str(data),)}
        alone[name] = one(parent, data, tmp_path / "one" / name, given)
        jobs[name] = (str(parent), str(data), str(tmp_path / "two" / name), given)
    (tmp_path / "two").mkdir()
    shutil.copytree(tmp_path / "one" / "resumed", tmp_path / "two" / "resumed")
    shutil.rmtree(written_checkpoints(tmp_path / "two" / "resumed")[-1])
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    (tmp_path / "jobs.py").write_text(JOBS)
    words = [*TORCHRUN, "--master-port", str(free_port()), str(tmp_path / "jobs.py"), str(tmp_path / "jobs.json")]
    done = subprocess.run(
        words, cwd=ROOT, env={**ALONE, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    for name, rows in alone.items():
        first, second = (json.loads((tmp_path / "two" / f"{name}-rank{rank}.json").read_text()) for rank in (0, 1))
        assert first == second and [row[0] for row in first] == ([9, 10, 11] if name == "resumed" else [*range(6, 12)])
        near = 1e-2 if name == "bfloat16" else 1e-6
        wanted = rows[-len(first) :]
        np.testing.assert_allclose([row[1] for row in first], [row[1] for row in wanted], rtol=0, atol=near)
        np.testing.assert_allclose([row[2] for row in first], [row[2] for row in wanted], rtol=0, atol=10 * near)
        assert [row[3] for row in first] == [row[3] for row in wanted]
        found, theirs = (written_checkpoints(tmp_path / many / name) for many in ("two", "one"))
        assert [folder.name for folder in found] == [folder.name for folder in theirs]
        for mine, other in zip(map(weights_of, found), map(weights_of, theirs), strict=True):
            assert mine.keys() == other.keys()
            assert max(float((mine[key] - other[key]).abs().max()) for key in mine) < 10 * near  # AdamW magnifies
        losses = [np.loadtxt(tmp_path / many / name / "evaluation.csv", delimiter=",", skiprows=1, usecols=(0, 3))
                  for many in ("two", "one")]  # fmt: skip
        np.testing.assert_allclose(*losses, rtol=0, atol=near)

    back = tmp_path / "two" / "plain"
    shutil.rmtree(written_checkpoints(back)[-1])
    rows = one(parents["dense"], data, back, {**SAME, **CHANGES["plain"], "eval": (str(data),)})
    np.testing.assert_allclose([row[1] for row in rows], [row[1] for row in alone["plain"][3:]], rtol=0, atol=1e-6)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(parent: Path, out: Path, data: list[str], steps: int) -> list[subprocess.Popen[str]]:
    """Two processes of the command line, each with its own data, as torchrun would start them."""
    words = [sys.executable, "-m", "olmo_dynamics", "fork", f"{parent}@step5-tokens320", "--out", str(out)]
    words += ["--steps", str(steps), "--save", "1", "--schedule", "constant", "--quiet"]
    port = str(free_port())
    return [
        subprocess.Popen(
            [*words, "--data", data[rank]],
            cwd=ROOT,
            env={**ALONE, "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


def test_where_one_fails_all_end_and_it_says_why(parents: dict[str, Path], tmp_path: Path) -> None:
    missing, data = str(tmp_path / "missing.bin"), str(tmp_path / "train.bin")
    processes = launch(parents["dense"], tmp_path / "out", [data, missing], 2)
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert told[0] == ("", "") and told[1][0] == ""
    [line] = told[1][1].splitlines()
    assert line.startswith("olmo-dyn: process 1: ") and "missing.bin" in line
    assert not written_checkpoints(tmp_path / "out")


def test_a_process_that_is_killed_takes_the_other_with_it_and_what_was_saved_stays(
    parents: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    processes = launch(parents["dense"], out, [str(tmp_path / "train.bin")] * 2, 100_000)
    while len(written_checkpoints(out)) < 2 and processes[0].poll() is None:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    stdout, stderr = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert (processes[0].returncode, stdout) == (2, "")
    assert stderr == (
        "olmo-dyn: another process of this run was lost, or did not answer for half an hour: saved checkpoints are kept; run the "
        "same command again to resume\n"
    )
    assert [folder.name for folder in written_checkpoints(out)] == ["step5-tokens320", "step6-tokens384"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"sequences_per_step": 3},
            "batches of 2 processes must divide by 2 (got 3 sequences): choose another --batch, or another --nproc-per-node",
        ),
        (
            {"batch_growth": ((2, 7),)},
            "batches of 2 processes must divide by 2 (got 7 sequences): choose another --batch, or another --nproc-per-node",
        ),
        ({"workers": 2}, "2 processes must have 1 worker each (got 2): add --workers 1"),
        ({"compile": True}, "2 processes cannot use torch.compile: leave --compile out"),
    ],
)
def test_what_cannot_be_shared_is_refused(recipe: Recipe, changes: dict[str, Any], line: str) -> None:
    refused = replace(recipe, **changes)
    check_process_count(refused, 1)
    with pytest.raises(OptionError) as caught:
        check_process_count(refused, 2)
    assert str(caught.value) == line


def test_a_device_that_is_not_there_is_one_line() -> None:
    for name, line in (
        (
            "cuda:99",
            f"device cuda:99 does not exist; torch sees {torch.cuda.device_count()} GPUs: use --device cpu",
        ),
        ("toaster", "device must be cpu or cuda (got 'toaster')"),
    ):
        with pytest.raises(OptionError) as caught, open_process_group(name):
            pass
        assert str(caught.value) == line
    with open_process_group() as place:
        assert place == torch.device("cpu") and not torch.distributed.is_initialized()
