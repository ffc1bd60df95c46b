"""What Ai2's own trainers logged, measured again from their checkpoints: format, split, model and loss in one number.

A checkpoint of step 40 is asked for its loss on the very batch of step 41, which the trainer logged before its update.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.collecting import collect
from olmo_dynamics.progress import Progress
from olmo_dynamics.training.data.windows import Windows

SEQUENCES, LENGTH = 16, 128


@pytest.fixture
def native(shared: Path) -> Path:
    return shared / "data" / "native"


def loss_on(run: Path, revision: str, batch: np.ndarray, folder: Path) -> float:
    """The cross-entropy `collect` records for one batch of tokens."""
    np.save(folder / "batch.npy", batch)
    store = collect(
        run, revisions=revision, out=folder / "store.zarr", tokens=folder / "batch.npy",
        batch=batch.shape, record=("loss",), progress=Progress(),
    )  # fmt: skip
    return float(store.table("loss")["cross_entropy"][0])


def token_file(native: Path) -> np.ndarray:
    return np.fromfile(native / "tokens" / "train.npy", dtype=np.uint16).astype(np.int64)


def test_olmo_core_logged_this_loss(native: Path, tmp_path: Path) -> None:
    run = native / "olmo_core" / "tiny-olmo3"
    logged = {line["step"]: line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    windows = Windows(token_file(native), length=LENGTH, sequences=SEQUENCES, seed=0)
    ours = loss_on(run, "step40", windows.batch(40).token_ids.numpy(), tmp_path)
    assert ours == pytest.approx(logged[41]["train/CE loss"], rel=2e-7)


def test_olmo_logged_this_loss(native: Path, tmp_path: Path) -> None:
    run = native / "olmo" / "tiny-olmo2"
    logged = [row for row in json.loads((run / "metrics.json").read_text()) if row.get("step") == 41]
    expected = next(row["cross_entropy"] for row in logged if "cross_entropy" in row)
    order = np.fromfile(run / "train_data" / "global_indices.npy", dtype=np.uint32)
    tokens = token_file(native)
    batch = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)[order[40 * SEQUENCES : 41 * SEQUENCES]]
    mean = loss_on(run, "step40-unsharded", batch, tmp_path)
    # OLMo divides the sum by all positions, though the last of each window has no label.
    assert mean * (LENGTH - 1) / LENGTH == pytest.approx(expected, abs=5e-4)
