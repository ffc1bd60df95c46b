"""The training curve as a table on disk: `metrics.parquet` in a run's folder, one row an update.

    >>> metrics("cache/forks/a").select("step", "loss", "gradient_norm")  # doctest: +SKIP

A Parquet file cannot be appended to, so it is written anew as a whole and renamed: at each checkpoint, before it, and every
half a minute between. A run that goes on after it was killed drops the rows beyond the step it goes on from.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.files import write_frame

METRICS_FILE, EVALUATION_FILE = "metrics.parquet", "evaluation.csv"
SAVE_SECONDS = 30.0
"""How much training a killed process may lose the metrics of, where its checkpoints are farther apart."""

Row = Mapping[str, int | float]


def metrics(folder: str | Path) -> pl.DataFrame:
    """The metrics of a run of ours, a row an update: step, tokens, loss, gradient_norm, learning_rate, and what else it kept.

    Held-out losses stand in a column a file, `eval/FILE`; the step that a fork begins at has a row for them alone.

    Raises:
        OptionError: the folder has none.
    """
    path = Path(folder).expanduser() / METRICS_FILE
    if not path.is_file():
        raise OptionError(f"metrics want a run's folder with {METRICS_FILE} in it; {folder} has none")
    rows, evaluated = pl.read_parquet(path), path.with_name(EVALUATION_FILE)
    if not evaluated.is_file():
        return rows
    losses = pl.read_csv(evaluated).with_columns(pl.format("eval/{}", "file").alias("file"))
    wide = losses.pivot("file", index=["step", "tokens"], values="loss")
    return rows.join(wide, on=["step", "tokens"], how="full", coalesce=True, maintain_order="left_right").sort("step")


class MetricsTable:
    """The table being written: takes a row an update, and keeps those up to `step` of what the folder has already.

    It is saved at every step of `save_at`, so that no checkpoint is ahead of it, and every `SAVE_SECONDS`.
    """

    def __init__(self, folder: Path, *, step: int, save_at: Collection[int] = ()) -> None:
        self.path = folder / METRICS_FILE
        self._save_at = frozenset(save_at)
        self._written = (
            pl.read_parquet(self.path).filter(pl.col("step") <= step) if self.path.exists() else pl.DataFrame()
        )
        self._rows: list[Row] = []
        self._saved = time.monotonic()

    def __call__(self, row: Row) -> None:
        """Take one row, and save if it is time."""
        self._rows.append(row)
        if row["step"] in self._save_at or time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write all rows; the file is there wholly or as it was.

        Raises:
            DiskFullError: no room.
        """
        if self._rows:
            new = pl.DataFrame(self._rows, infer_schema_length=None)
            self._written = pl.concat([self._written, new], how="diagonal_relaxed") if len(self._written) else new
            self._rows.clear()
            write_frame(self._written, self.path)
        self._saved = time.monotonic()
