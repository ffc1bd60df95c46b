"""The store of version 0.1.0 in `data/`, and the run that it was made of."""

from __future__ import annotations

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("data") / "layout2.tar.xz"
STATES = ("log", "compacted")
MEASURED = ("stage1-step0-tokens0B", "stage1-step10-tokens1B", "stage1-step20-tokens2B")
FOURTH = "stage1-step30-tokens3B"
"""The revision of the run that the store does not hold."""


def unpack(folder: Path) -> Path:
    """The folder with `log.zarr`, `compacted.zarr` and `run` in it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder
