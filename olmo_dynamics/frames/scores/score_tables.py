"""Tables of scores in one form: model, revision, commit, step, task, setting, metric, value, stderr.

    >>> given = pl.DataFrame({"step": [0, 10], "task": "piqa", "metric": "acc", "value": [0.5, 0.7]})
    >>> plain(given).select("step", "value").rows()
    [(0, 0.5), (10, 0.7)]

A table of one row per score has these columns; `task`, `metric` and `value` are required. A CSV file that Weights & Biases
exports has one column per metric, beside `_step`, or beside `Step` if the columns are named `RUN - METRIC`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

from olmo_dynamics.errors import OptionError

SCHEMA: dict[str, pl.DataType] = {
    "model": pl.String(),
    "revision": pl.String(),
    "commit": pl.String(),
    "step": pl.Int64(),
    "task": pl.String(),
    "setting": pl.String(),
    "metric": pl.String(),
    "value": pl.Float64(),
    "stderr": pl.Float64(),
}
_REQUIRED = ("task", "metric", "value")
_OF_RUN = re.compile(r"(?P<run>.+) - (?P<metric>[^ ].*)")
_EXTREMES = ("__MIN", "__MAX")
"""Endings of the columns in which an export holds the extremes of what it has averaged."""


def table_of(rows: list[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as a table of scores; columns that a row lacks are null."""
    return pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in rows], schema=SCHEMA)


def plain(frame: pl.DataFrame, place: str = "the table") -> pl.DataFrame:
    """A table of one row per score, or an export of Weights & Biases, as a table of scores.

    Raises:
        OptionError: a required column is missing, or a column holds something else than its type.
    """
    if "_step" in frame.columns or "Step" in frame.columns:
        return _exported(frame)
    missing = [name for name in _REQUIRED if name not in frame.columns]
    if missing:
        raise OptionError(
            f"{place} must have the columns {', '.join(_REQUIRED)}, or _step or Step as Weights & Biases exports them "
            f"(got {', '.join(frame.columns)})"
        )
    columns = [
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in SCHEMA.items()
    ]
    try:
        return frame.select(columns)
    except pl.exceptions.PolarsError as error:
        raise OptionError(f"{place} must hold whole steps, and numbers as value and stderr ({error})") from None


def _exported(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per number of an export."""
    step = "_step" if "_step" in frame.columns else "Step"
    numeric = [name for name, kind in frame.schema.items() if kind.is_numeric() and name != step]
    kept = [name for name in numeric if not name.endswith(_EXTREMES) and not name.startswith("_")]
    parts = []
    for name in kept:
        of_run = _OF_RUN.fullmatch(name) if step == "Step" else None
        labels = {
            "model": of_run["run"] if of_run else None,
            "task": None,
            "metric": of_run["metric"] if of_run else name,
        }
        columns = [pl.lit(text, pl.String).alias(label) for label, text in labels.items()]
        values = frame.select(pl.col(step).alias("step"), pl.col(name).alias("value"), *columns)
        parts.append(values.filter(pl.col("value").is_not_null()).with_columns(pl.col("task").fill_null("log")))
    return plain(pl.concat(parts)) if parts else table_of([])
