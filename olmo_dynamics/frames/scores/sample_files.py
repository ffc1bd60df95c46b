"""Files in which lm-evaluation-harness keeps each example: means over them, as scores of a task.

    >>> read_samples(Path("samples_piqa_2025-03-01T12-00-00.000000.jsonl"))[0]["metric"]  # doctest: +SKIP
    'acc'

A line is one example, with a number for each name in its `metrics`. The file names no model: that and the number of shots are in
the `results_*.json` of the same time beside it, if it is there.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, object]

_NAMED = re.compile(r"samples_(?P<task>.+)_(?P<time>[^_]+)\.jsonl")


def is_samples(path: Path) -> bool:
    """True if the file's name is that of examples."""
    return _NAMED.fullmatch(path.name) is not None


def results_beside(path: Path) -> Path | None:
    """The results of the same time, None if they are not there."""
    named = _NAMED.fullmatch(path.name)
    beside = path.with_name(f"results_{named['time']}.json") if named else path
    return beside if beside != path and beside.is_file() else None


def read_samples(path: Path) -> list[Row]:
    """One row per metric and filter: task, metric, the mean over the examples, and its standard error.

    Examples without a number for a metric, such as those of an F1 score, are left out.
    """
    named = _NAMED.fullmatch(path.name)
    assert named is not None
    values: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            for metric, value in _numbers(json.loads(line)).items():
                values.setdefault(metric, []).append(value)
    return [{"task": named["task"], "metric": metric, **_mean(found)} for metric, found in values.items()]


def _numbers(sample: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an example that are numbers; a filter other than `none` is part of the name."""
    filtered = sample.get("filter", "none")
    ending = "" if filtered in ("", "none") else f",{filtered}"
    given = {name: sample[name] for name in sample["metrics"]}
    return {f"{name}{ending}": float(value) for name, value in given.items() if isinstance(value, int | float)}


def _mean(values: list[float]) -> dict[str, float | None]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return {"value": statistics.fmean(values), "stderr": error}
