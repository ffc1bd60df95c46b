"""Peak anonymous memory against model size: one revision over HTTP, parameters and activations of 1 x 64 tokens.

Checkpoints with the layers of a 32B model (hidden size 5120; the whole model has 64) are generated on request, without a
disk.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.hub_process import REPO, served
from benchmarks.interleave import report_timing

METHODS = ("layers=2", "layers=8")
WHOLE = "layers=64"  # 64 GB: minutes


def run(method: str, place: Path) -> float:
    """Collect one revision; returns the bytes read."""
    from olmo_dynamics.checkpoints.hub import HubSource
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    np.save(place / "tokens.npy", np.random.default_rng(0).integers(0, 100_000, (1, 64)))
    listener = Progress()
    with served(method) as endpoint:
        source = HubSource(REPO, endpoint=endpoint, token=False)
        collect(
            source, out=place / "s.zarr", tokens=place / "tokens.npy", batch="1x64", dtype="bfloat16", progress=listener
        )
    return float(listener.outcome["bytes"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        report_timing(lambda: run(sys.argv[1], Path(empty)))
