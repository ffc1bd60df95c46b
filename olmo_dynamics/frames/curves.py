"""The training curve as a table on disk: `metrics.parquet` in a run's folder, one row per update.

    >>> metrics("cache/forks/a").select("step", "loss", "gradient_norm")  # doctest: +SKIP

A Parquet file cannot be appended to, so the whole file is rewritten and renamed: before each checkpoint, and every half
minute in between. A run that resumes after it was killed drops the rows beyond the step from which it resumes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.table_files import write_frame

METRICS_FILE, EVALUATION_FILE = "metrics.parquet", "evaluation.csv"
SAVE_SECONDS = 30.0
"""The longest training time whose metrics a killed process can lose between two checkpoints."""

Row = Mapping[str, int | float]


def metrics(folder: str | Path) -> pl.DataFrame:
    """Read the metrics of a run, one row per update: step, tokens, loss, gradient_norm, learning_rate and further columns.

    Held-out losses have one column per file, `eval/FILE`. The first step of a fork has a row for these columns alone.

    Raises:
        OptionError: the folder has no metrics, or damaged ones.
    """
    path = Path(folder).expanduser() / METRICS_FILE
    if not path.is_file():
        raise OptionError(f"the folder of a run must hold {METRICS_FILE}; {folder} does not")
    rows, evaluated = _read(path), path.with_name(EVALUATION_FILE)
    if not evaluated.is_file():
        return rows
    losses = pl.read_csv(evaluated).with_columns(pl.format("eval/{}", "file").alias("file"))
    wide = losses.pivot("file", index=["step", "tokens"], values="loss")
    return rows.join(wide, on=["step", "tokens"], how="full", coalesce=True, maintain_order="left_right").sort("step")


class MetricsTable:
    """A writer of the table: takes one row per update, after the folder's existing rows up to `step`.

    The table is saved at every step of `save_at`, so that no checkpoint is ahead of it, and every `SAVE_SECONDS`.
    """

    def __init__(self, folder: Path, *, step: int, save_at: Collection[int] = ()) -> None:
        self.path = folder / METRICS_FILE
        self._save_at = frozenset(save_at)
        self._written = _read(self.path).filter(pl.col("step") <= step) if self.path.exists() else pl.DataFrame()
        self._rows: list[Row] = []
        self._saved = time.monotonic()

    def __call__(self, row: Row) -> None:
        """Take one row, and save the table if it is due."""
        self._rows.append(row)
        if row["step"] in self._save_at or time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write all rows; the file is replaced as a whole or not at all.

        Raises:
            DiskFullError: the disk is full.
        """
        if self._rows:
            new = pl.DataFrame(self._rows, infer_schema_length=None)
            self._written = pl.concat([self._written, new], how="diagonal_relaxed") if len(self._written) else new
            self._rows.clear()
            write_frame(self._written, self.path)
        self._saved = time.monotonic()


def _read(path: Path) -> pl.DataFrame:
    try:
        rows = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError):
        rows = pl.DataFrame()
    if rows.schema.get("step") != pl.Int64:
        raise OptionError(
            f"{path} must be a table of metrics, but is damaged: delete it; a fork resumes without its rows"
        )
    return rows
