"""Sketches and spectra beside parameter statistics of a local revision, and the two-model subtraction that they replace.

The revision is the second of two, which differ by noise of 1 % of the weights' spread; singular vectors of the first are the
start for the second, whose time alone counts. The page cache is warm.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.checkpoint import make_checkpoint
from benchmarks.interleave import report_timing
from benchmarks.parameters import pread_limit

GROUPS = {
    "parameters alone": ("parameters",),
    "parameters + sketches": ("parameters", "sketches"),
    "parameters + spectra, warm": ("parameters", "spectra"),
}
PEER = "load both in transformers, subtract"
LIMIT = "pread, two threads"
METHODS = (*GROUPS, PEER, LIMIT)
_NOISE = 0.01  # of the weights' spread, 0.02


def later_revision(folder: Path) -> Path:
    """The folder of the second revision, written once beside the first."""
    later = folder.parent / "step2000-tokens2000"
    if (later / "config.json").exists():
        return later
    later.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    for shard in sorted(folder.glob("*.safetensors")):
        moved = {
            name: (values + torch.randn(values.shape, generator=generator) * 0.02 * _NOISE).bfloat16()
            for name, values in load_file(shard).items()
        }
        save_file(moved, later / shard.name, metadata={"format": "pt"})
    shutil.copy(folder / "model.safetensors.index.json", later)
    shutil.copy(folder / "config.json", later)
    return later


def recorded(groups: tuple[str, ...], folder: Path) -> Callable[[Path], float]:
    """A function that measures a revision and gives its total L2 norm; recorders keep what they learn of `folder`, the first."""
    from olmo_dynamics.checkpoints import open_source
    from olmo_dynamics.collection.collector import measure
    from olmo_dynamics.collection.options import CollectOptions
    from olmo_dynamics.collection.setup import make_setup

    source = open_source(folder.parent)
    with source.open(source.find(folder.name)) as checkpoint:
        setup = make_setup(checkpoint, CollectOptions(record=groups), source="benchmark")

    def work(revision: Path) -> float:
        with source.open(source.find(revision.name)) as checkpoint:
            records = measure(checkpoint, setup)
        norms = [float(each.values) for each in records if each.quantity.key == "parameters/l2_norm"]
        return float(np.linalg.norm(norms))

    return work


@torch.inference_mode()
def subtracted(folder: Path, later: Path) -> float:
    """Load both models as they are stored, and take the norm of each tensor's difference in float32."""
    from transformers import AutoModelForCausalLM

    models = [AutoModelForCausalLM.from_pretrained(each, dtype=torch.bfloat16) for each in (folder, later)]
    pairs = zip(*(model.state_dict().values() for model in models), strict=True)
    return float(np.linalg.norm([float((after.float() - before.float()).norm()) for before, after in pairs]))


def run(method: str, folder: Path, later: Path) -> None:
    if method not in GROUPS:
        report_timing(lambda: subtracted(folder, later) if method == PEER else pread_limit(later))
        return
    small = make_checkpoint("tiny", folder.parent.parent)
    recorded(("parameters", "sketches"), small)(small)  # kernels are compiled, or loaded
    work = recorded(GROUPS[method], folder)
    work(folder)
    report_timing(lambda: work(later))


if __name__ == "__main__":
    first = Path(sys.argv[2])
    run(sys.argv[1], first, later_revision(first))
