"""Files of training logs, by their form, as one row per number: run, step, metric, value.

>>> read_log("trainer_state.json").columns  # doctest: +SKIP
['run', 'step', 'metric', 'value']
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.logs.console_logs import console_rows

SCHEMA = {"run": pl.String(), "step": pl.Int64(), "metric": pl.String(), "value": pl.Float64()}

_STEPS = ("train/global_step", "_step", "Step", "step")
"""Columns that hold the step, the best first: transformers counts updates in `train/global_step`, W&B its calls in `_step`."""

_OF_RUN = re.compile(r"(?P<run>.+) - (?P<metric>[^ ].*)")
_EXTREMES = ("__MIN", "__MAX")
_FORMS = (
    "metrics of OLMo or OLMo-core (.json, .jsonl), trainer_state.json of transformers, a CSV export, or a console log"
)


def read_log(path: str | Path) -> pl.DataFrame:
    """The numbers of one file of logs; `run` is null unless the file names it.

    Raises:
        OptionError: there is no such file, or it has none of the forms, or no number with a step.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise OptionError(f"a file of logs must exist (got {path})")
    try:
        found = _csv(place) if place.name.endswith((".csv", ".csv.gz")) else _of_rows(_rows(place))
    except (ValueError, TypeError, AttributeError, KeyError, OSError, pl.exceptions.PolarsError) as error:
        raise OptionError(f"{path} must hold {_FORMS} ({type(error).__name__}: {_one_line(error)})") from None
    if found.is_empty():
        raise OptionError(f"{path} must hold {_FORMS} (got no number with a step)")
    return found


def _rows(place: Path) -> Iterable[dict[str, Any]]:
    """The rows of a file that is not a table, each with its step."""
    with place.open(encoding="utf-8", errors="replace") as file:
        if place.suffix == ".jsonl":
            return [json.loads(line) for line in file if line.strip()]
        if place.suffix != ".json":
            return list(console_rows(file))
        whole = json.load(file)
    if isinstance(whole, dict):
        rows: list[dict[str, Any]] = whole["log_history"]
        return rows
    return list(whole)


def _of_rows(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """One row per number; what is no number (a text, a list, a truth value) is left out."""
    columns: dict[str, list[Any]] = {"step": [], "metric": [], "value": []}
    for row in rows:
        step = next((row[name] for name in _STEPS if row.get(name) is not None), None)
        if step is None:
            continue
        if step != int(step) or step < 0:
            raise ValueError(f"a step must be a whole number of at least 0, got {step}")
        for name, value in row.items():
            if name not in _STEPS and isinstance(value, int | float) and not isinstance(value, bool):
                columns["step"].append(int(step))
                columns["metric"].append(name)
                columns["value"].append(float(value))
    return pl.DataFrame({"run": [None] * len(columns["step"]), **columns}, schema=SCHEMA)


def _csv(place: Path) -> pl.DataFrame:
    """One row per number of a table with a column of steps, such as an export of Weights & Biases."""
    frame = pl.read_csv(place, infer_schema_length=None)
    step = next((name for name in _STEPS if name in frame.columns), None)
    if step is None:
        raise ValueError(f"no column {', '.join(_STEPS)}")
    steps = frame.select(pl.col(step).cast(pl.Float64)).to_series().drop_nulls()
    if ((steps != steps.floor()) | (steps < 0)).any():
        raise ValueError(f"{step} holds a step that is no whole number of at least 0")
    kept = [name for name, kind in frame.schema.items() if kind.is_numeric() and _is_metric(name)]
    long = frame.filter(pl.col(step).is_not_null()).select(
        pl.col(step).cast(pl.Float64).cast(pl.Int64).alias("\0step"), *(pl.col(name).cast(pl.Float64) for name in kept)
    )
    long = long.unpivot(index="\0step", variable_name="published", value_name="value").filter(
        pl.col("value").is_not_null()
    )
    named = [_named(name, step) for name in kept]
    names = pl.DataFrame(
        {"published": kept, "run": [run for run, _ in named], "metric": [metric for _, metric in named]},
        schema={"published": pl.String, "run": pl.String, "metric": pl.String},
    )
    found = long.join(names, on="published", maintain_order="left").rename({"\0step": "step"})
    return found.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def _is_metric(name: str) -> bool:
    """True unless the column is a step, an extreme of what an export has averaged, or W&B's own (`_runtime`)."""
    return name not in _STEPS and not name.endswith(_EXTREMES) and not name.startswith("_")


def _named(column: str, step: str) -> tuple[str | None, str]:
    """The run and the metric of a column: `RUN - METRIC` where the export is of several runs."""
    found = _OF_RUN.fullmatch(column) if step == "Step" else None
    return (found["run"], found["metric"]) if found else (None, column)


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
