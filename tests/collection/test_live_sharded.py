"""A model that FSDP2 shards over processes is recorded as if one process held it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import olmo_dynamics as od
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.model import LanguageModel, ModelConfig, build_model, init_weights
from tests.collection.test_live import same_tables

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"hidden_size": 16, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 4, "intermediate_size": 24}
CONFIG = ModelConfig(**SIZES, vocab_size=64, max_positions=32, norm_eps=1e-6, rope_theta=5e5)
RECORD = ("parameters", "embeddings", "activations", "loss", "optimizer")


def new_model() -> LanguageModel:
    model = build_model(CONFIG, device="cpu")
    init_weights(model, seed=0)
    return model


def shard(model: LanguageModel) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo supports no other reduction


def train_and_record(model: LanguageModel, folder: Path, *, rank: int = 0, processes: int = 1) -> RecordedStore:
    """Two updates, each process with its share of the batch, and a recording after each."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-2, eps=1.0
    )  # a small one would make rounding of gradients large
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 64, (4, 17)))
    share = batch.chunk(processes)[rank]
    for step in (1, 2):
        loss = nn.functional.cross_entropy(model(share[:, :-1]).flatten(0, 1), share[:, 1:].flatten(), reduction="sum")
        optimizer.zero_grad()
        (loss / batch[:, 1:].numel()).backward()
        optimizer.step()
        store = od.record(
            model,
            folder / "s.zarr",
            step=step,
            record=RECORD,
            probe=folder.parent / "probe.npy",
            optimizer=optimizer,
        )
    return store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    np.save(tmp_path / "probe.npy", np.random.default_rng(1).integers(0, 64, (3, 16)))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    return tmp_path


def test_one_process_that_shards_records_what_one_that_does_not_records(place: Path) -> None:
    whole = train_and_record(new_model(), place / "one")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = new_model()
        shard(model)
        sharded = train_and_record(model, place / "two")
    finally:
        dist.destroy_process_group()
    assert whole.attributes["source"] == sharded.attributes["source"] == "Olmo2"
    same_tables(whole, sharded)


PROGRAM = """
import sys
from pathlib import Path
import torch.distributed as dist
from tests.collection.test_live_sharded import new_model, shard, train_and_record

dist.init_process_group("gloo")
model = new_model()
shard(model)
store = train_and_record(model, Path(sys.argv[1]), rank=dist.get_rank(), processes=dist.get_world_size())
assert store.done == {"step1", "step2"}
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_record_what_one_records(place: Path) -> None:
    program = place / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(place / "two")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    one, two = train_and_record(new_model(), place / "one"), od.open_store(place / "two" / "s.zarr")
    assert one.groups == two.groups
    for group in one.groups:
        for name, values in one.arrays(group).items():
            if values.dtype.kind == "f":
                scale = float(np.nanmax(np.abs(values), initial=1e-6))
                np.testing.assert_allclose(
                    two.arrays(group)[name], values, rtol=1e-6, atol=1e-6 * scale, err_msg=f"{group}/{name}"
                )
