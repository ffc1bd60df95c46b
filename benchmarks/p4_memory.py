"""P4: peak anonymous memory against model size: one revision over HTTP, parameters and activations of 1 x 64 tokens.

Checkpoints of a 32B's layers (hidden 5120, 64 of them in the whole model) are generated as they are asked for: no disk.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.hub_process import REPO, served
from benchmarks.turns import report_turn

METHODS = ("layers=2", "layers=8")
WHOLE = "layers=64"  # 64 GB: minutes


def run(method: str, place: Path) -> float:
    """The bytes that were read."""
    from olmo_dynamics.checkpoints.hub import HubSource
    from olmo_dynamics.collection import collect
    from olmo_dynamics.progress import Silent

    np.save(place / "tokens.npy", np.random.default_rng(0).integers(0, 100_000, (1, 64)))
    listener = Silent()
    with served(method) as endpoint:
        source = HubSource(REPO, endpoint=endpoint, token=False)
        collect(source, out=place / "s.zarr", tokens=place / "tokens.npy", batch="1x64", progress=listener)
    return float(listener.outcome["bytes"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        report_turn(lambda: run(sys.argv[1], Path(empty)))
