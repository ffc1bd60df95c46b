"""Tables written to files, each as a whole or not at all.

>>> write_frame(frame, Path("parameters.parquet"))  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from olmo_dynamics.store.files import write_errors_named


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a table to a .csv file, or to Parquet, under a temporary name, then rename it.

    Raises:
        DiskFullError: the disk is full; an earlier file of that name stays.
    """
    partial = path.with_name(path.name + ".partial")
    with write_errors_named(path):
        try:
            if path.suffix == ".csv":
                frame.write_csv(partial)
            else:
                frame.write_parquet(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
