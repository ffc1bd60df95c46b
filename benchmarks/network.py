"""Three revisions in a row over HTTP from a throttled local hub, and the same three from a folder.

The limit is the larger of two times: bytes over rate, and computing alone. The link's busy share is bytes over rate over
wall time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.forward_peers import token_file
from benchmarks.hub_process import REPO, REVISIONS, served
from benchmarks.interleave import report_timing

RATES = {"50 MB/s": 50e6, "100 MB/s": 100e6, "400 MB/s": 400e6}
METHODS = (*RATES, "folder")


def collect_from(source: object, tokens: Path, out: Path) -> float:
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    listener = Progress()
    collect(
        source,
        out=out,
        tokens=tokens,
        batch="{}x{}".format(*np.load(tokens).shape),
        dtype="bfloat16",
        progress=listener,
    )
    return float(listener.outcome["bytes"])


def links(folder: Path, into: Path) -> Path:
    """Link the checkpoint under one name per revision."""
    for number in range(REVISIONS):
        (into / f"step{number}").symlink_to(folder.absolute())
    return into


def run(method: str, folder: Path, place: Path) -> float:
    """Collect with one method; returns the bytes read."""
    tokens = token_file(folder)
    if method not in RATES:
        (place / "run").mkdir()
        return collect_from(links(folder, place / "run"), tokens, place / "folder.zarr")
    from olmo_dynamics.checkpoints.hub import HubSource

    with served(str(folder), RATES[method]) as endpoint:
        return collect_from(HubSource(REPO, endpoint=endpoint, token=False), tokens, place / "hub.zarr")


if __name__ == "__main__":
    chosen, path = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as empty:
        report_timing(lambda: run(chosen, path, Path(empty)))
