"""A sentence about this run for each figure: where its numbers begin and end, and where they are extreme.

>>> import polars as pl
>>> frame = pl.DataFrame({"revision": ["a", "b"], "step": [0, 10], "layer": [3, 3], "rms": [0.02, 0.11]})
>>> sentence(frame, Told("rms", "the root mean square of weights"))
'The root mean square of weights rises from 0.02 at step 0 to 0.11 at step 10.'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import polars as pl

from olmo_dynamics.frames.averages import MACRO_AVERAGE
from olmo_dynamics.plots.lines import LINE, time_column, with_line
from olmo_dynamics.plots.pages.small_curve import short
from olmo_dynamics.plots.table import labels

_SAME = 0.02  # a relative change below it is no rise and no fall
_PLURALS = {"tensor": "tensors", "layer": "layers", "domain": "domains", "head": "heads", "site": "sites", "task": "tasks",
            "embedding": "embeddings", "expert": "experts", "part": "parts", "run": "runs"}  # fmt: skip
_NAMED = ("run", "fork", "task", "domain", "role", "site", "part", "embedding", "layer", "head", "expert", "feature", "order",
          "singular_rank", "matrix", "vocabulary", "partner", "later_layer")  # fmt: skip
"""Columns that say where a value is, in the order of words."""


@dataclass(frozen=True, slots=True)
class Told:
    """The column that a sentence is about, a noun for it, and the rows that are told if they are not those drawn."""

    value: str
    noun: str = ""
    frame: pl.DataFrame | None = None


def sentence(frame: pl.DataFrame, told: Told) -> str:
    """Start, end and extremes of a column over training, with the place of each; empty if there is nothing to tell.

    Of several series, start and end are the mean over domains where the table has it, or else the median of the series that both
    revisions have.
    """
    rows = _finite(told.frame if told.frame is not None else frame, told.value)
    if rows.is_empty() or "revision" not in rows.columns:
        return ""
    noun = told.noun or told.value.replace("_", " ")
    noun = noun[:1].upper() + noun[1:]
    time = _time(rows)
    placed = rows.filter(pl.col(time).is_not_null()) if time else rows
    if not time or placed[time].n_unique() < 2:
        return _of_one(placed if not placed.is_empty() else rows, noun, told.value)
    apart = [name for name in _NAMED if name in placed.columns and placed[name].n_unique() > 1]
    start, end = (placed.filter(pl.col(time) == place) for place in (placed[time].min(), placed[time].max()))
    first, last, words = _ends(start, end, told.value, apart)
    unit = "tokens" if "tokens" in time else "step"
    moved = _moved(first, last)
    where = (f"at {unit} {start[time][0]:,}", f"at {unit} {end[time][0]:,}")
    told_ends = f"{noun}{words} {moved} {short(first)} {where[0]} to {short(last)} {where[1]}"
    return f"{told_ends}{_extremes(placed, told.value, time, unit, apart)}."


def of_pairs(frame: pl.DataFrame, value: str, noun: str, *, between: str = "revision") -> str:
    """The value of the first and the last revision or layer, and the lowest one of neighbours; empty of fewer than two.

    Takes a table with the columns `between` and `other_` of it, in the order of the places.

    >>> pairs = pl.DataFrame({"revision": ["a", "a"], "other_revision": ["b", "c"], "step": [0, 0], "other_step": [10, 20],
    ...                       "cosine": [0.9, 0.25]})
    >>> of_pairs(pairs, "cosine", "the cosine of weights")
    'The cosine of weights between step 0 and step 20 is 0.25; of neighbours, the lowest is 0.9 (step 0 and step 10).'
    """
    other = f"other_{between}"
    held = frame.filter(pl.col(value).cast(pl.Float64).is_finite())
    places = list(dict.fromkeys([*held[between].to_list(), *held[other].to_list()]))
    rows = {(row[between], row[other]): row for row in held.iter_rows(named=True)}
    rows |= {(there, here): row for (here, there), row in list(rows.items()) if (there, here) not in rows}
    ends = rows.get((places[0], places[-1])) if len(places) > 1 else None
    if ends is None:
        return ""
    told = f"{noun[:1].upper()}{noun[1:]} between {_two(ends, between)} is {short(ends[value])}"
    near = [rows[pair] for pair in pairwise(places) if pair in rows]
    lowest = min(near, key=lambda row: float(row[value]), default=None)
    if lowest is None or len(places) < 3:
        return f"{told}."
    return f"{told}; of neighbours, the lowest is {short(lowest[value])} ({_two(lowest, between)})."


def of_path(frame: pl.DataFrame) -> str:
    """The shares of the first components, and how far the path goes along the first one; takes a table of `trajectory`."""
    first = frame.filter(component=1).drop_nulls("step")
    if first.is_empty():
        return ""
    shares = frame.unique("component", maintain_order=True).sort("component").head(2)["share"].to_list()
    held = " and ".join(f"{100 * share:.3g} %" for share in shares)
    start, end = first.row(0, named=True), first.row(-1, named=True)
    return (
        f"The first components hold {held} of the variance over revisions; along the first, the weights go from "
        f"{short(start['coordinate'])} at step {start['step']:,} to {short(end['coordinate'])} at step {end['step']:,}."
    )


def of_places(frame: pl.DataFrame) -> str:
    """The feature that is most often among the largest activations, and the share of them at the first position."""
    held = frame.filter(pl.col("layer").is_not_null(), pl.col("feature") >= 0)
    if held.is_empty():
        return ""
    feature, count = held["feature"].value_counts(sort=True).row(0)
    first = held.filter(pl.col("position") == 0).height
    return (
        f"Feature {feature} is most often among the largest activations of a layer: {100 * count / held.height:.3g} % of them; "
        f"{100 * first / held.height:.3g} % of all are at the first position of a window."
    )


def _finite(frame: pl.DataFrame, value: str) -> pl.DataFrame:
    return frame.filter(pl.col(value).cast(pl.Float64).is_finite()).with_columns(pl.col(value).cast(pl.Float64))


def _time(rows: pl.DataFrame) -> str:
    """The column of time: steps, counted through all stages where the table has several."""
    if "step" not in rows.columns:
        return ""
    return time_column(with_line(rows), "step")


def _of_one(rows: pl.DataFrame, noun: str, value: str) -> str:
    """The sentence about a single revision."""
    apart = [name for name in _NAMED if name in rows.columns and rows[name].n_unique() > 1]
    if rows.height == 1 or not apart:
        return f"{noun} is {short(rows[value][0])}."
    low, high = (rows.row(int(place), named=True) for place in (rows[value].arg_min() or 0, rows[value].arg_max() or 0))
    return f"{noun} runs from {_placed(low, value, apart)} to {_placed(high, value, apart)}."


def _placed(row: Mapping[str, Any], value: str, apart: Sequence[str]) -> str:
    """A number, and its place in brackets if it has one."""
    where = _where(row, apart)
    return f"{short(row[value])} ({where})" if where else short(row[value])


def _ends(start: pl.DataFrame, end: pl.DataFrame, value: str, apart: Sequence[str]) -> tuple[float, float, str]:
    """The first and the last number, and what they are of."""
    if "domain" in apart and all((part["domain"] == MACRO_AVERAGE).any() for part in (start, end)):
        start, end = (part.filter(pl.col("domain") == MACRO_AVERAGE) for part in (start, end))
        return _median(start, value), _median(end, value), " (mean over domains)"
    if not apart:
        return _median(start, value), _median(end, value), ""
    named = dict.fromkeys((*labels(), "run", "fork", "part", "head"))
    keys = [name for name in named if name in start.columns and name != value]
    shared = start.join(end.select(keys).unique(), on=keys, how="semi", nulls_equal=True)
    both = (shared, end.join(start.select(keys).unique(), on=keys, how="semi", nulls_equal=True))
    if shared.is_empty():
        both = (start, end)
    return _median(both[0], value), _median(both[1], value), f" (median over {_counted(both[0], apart)})"


def _median(rows: pl.DataFrame, value: str) -> float:
    return float(cast(float, rows[value].median()))


def _counted(rows: pl.DataFrame, apart: Sequence[str]) -> str:
    """The number of series, by the column that names them where only one does."""
    several = [name for name in apart if rows[name].n_unique() > 1]
    if len(several) == 1 and several[0] in _PLURALS:
        return f"{rows[several[0]].n_unique()} {_PLURALS[several[0]]}"
    return f"{rows.height:,} tensors" if "tensor" in rows.columns else f"{rows.height:,} series"


def _moved(first: float, last: float) -> str:
    if abs(last - first) <= _SAME * max(abs(first), abs(last)):
        return "hardly changes, from"
    return "rises from" if last > first else "falls from"


def _extremes(rows: pl.DataFrame, value: str, time: str, unit: str, apart: Sequence[str]) -> str:
    """The least and the greatest number with their places; those of a single series only if they are not at its ends."""
    ends = (rows[time].min(), rows[time].max())
    parts = []
    for name, place in (("lowest", rows[value].arg_min()), ("highest", rows[value].arg_max())):
        row = rows.row(int(place or 0), named=True)
        if apart or row[time] not in ends:
            where = ", ".join(part for part in (_where(row, apart), f"{unit} {row[time]:,}") if part)
            parts.append(f"the {name} is {short(row[value])} ({where})")
    return f"; {' and '.join(parts)}" if parts else ""


def _where(row: Mapping[str, Any], apart: Sequence[str]) -> str:
    """The place of a value in words, such as `down_proj, layer 3`."""
    words = []
    for name in apart:
        held = row[name]
        if held is None:
            continue
        plain = name in ("domain", "role", "site", "part", "task", "run", "fork", "matrix", "vocabulary", "embedding")
        words.append(str(held) if plain else f"{name.replace('_', ' ')} {held}")
    if LINE in row and row[LINE] and "run" not in apart and "/" in str(row[LINE]):
        words.append(str(row[LINE]))
    return ", ".join(words)


def _two(row: Mapping[str, Any], between: str) -> str:
    """The two places of a pair: steps where both have one, or else names."""
    if between == "layer":
        return f"layer {row['layer']} and layer {row['other_layer']}"
    steps = row.get("step"), row.get("other_step")
    if None not in steps:
        return f"step {steps[0]:,} and step {steps[1]:,}"
    return f"{row['revision']} and {row['other_revision']}"
