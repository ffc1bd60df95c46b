"""Lines of training: which rows one drawn line joins, and where later stages stand on the time axis.

A line of training is one sequence of updates: a stage, an ingredient of it, a seed. Where a table has several stages, the
time axis shows positions, which count through all stages, so a line of stage 2 begins at the end of its stage 1.

    >>> parents(["stage1", "stage2/ingredient1", "stage2/ingredient2"])
    {'stage2/ingredient1': 'stage1', 'stage2/ingredient2': 'stage1'}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import polars as pl

from olmo_dynamics.names import FORK

POSITIONS = {"step": "position_step", "tokens": "position_tokens"}
"""The columns that count steps and tokens through all stages, by the column that counts those of one stage."""

LINE = "line"
"""The column that names a row's line of training."""

JOINT, BORDER, BORDER_NAME = "joint", "border", "border_name"
"""Added columns: true for a row that only joins a line to its parent's end; the place where a stage begins; its name."""

_UNNAMED = "no stage"
_STAGE = re.compile(r"(?P<run>(?:.*/)?)stage(?P<stage>\d+)(?=/|$)")


def with_line(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with its column `line`, made of stage and ingredient where it has none."""
    if LINE in frame.columns and frame[LINE].dtype == pl.String:
        return frame.with_columns(pl.col(LINE).replace("", None).fill_null(_UNNAMED))
    present = [name for name in ("stage", "ingredient") if name in frame.columns]
    parts = [pl.when(pl.col(name).is_not_null()).then(pl.format(f"{name}{{}}", name)) for name in present]
    words = pl.concat_str(parts or [pl.lit("")], separator="/", ignore_nulls=True).replace("", _UNNAMED)
    return frame.with_columns(words.alias(LINE))


def time_column(frame: pl.DataFrame, x: str) -> str:
    """The column that the time axis shows: the position if the table has several stages and knows it, or else `x`."""
    several = "stage" in frame.columns and frame["stage"].drop_nulls().n_unique() > 1
    position = POSITIONS[x]
    return position if several and position in frame.columns and frame[position].is_not_null().any() else x


def parents(lines: Iterable[str], *, staged: bool = True) -> dict[str, str]:
    """The line that each line continues: of a fork, the line that it was forked from.

    If `staged`, a line of a later stage continues the line of the nearest earlier one of its run that has no label which it
    lacks. Of several joined runs, a line begins with its run: `org/model/stage1`.
    """
    named = list(lines)
    told = {line: found for line in named if staged and (found := _STAGE.match(line))}
    stages = {line: (found["run"], int(found["stage"])) for line, found in told.items()}
    labels = {line: set(line[found.end() :].split("/")) - {""} for line, found in told.items()}
    continued: dict[str, str] = {}
    for line in named:
        run, own = stages.get(line, ("", 0))
        before = max((each for each in stages.values() if each[0] == run and each[1] < own), default=None)
        fitting = [other for other in stages if stages[other] == before and labels[other] <= labels[line]]
        origin = line.removesuffix(f"/{FORK}")
        if origin != line:
            continued |= {line: origin} if origin in named else {}
        elif fitting:
            continued[line] = max(fitting, key=lambda other: len(labels[other]))
    return continued


def paths(frame: pl.DataFrame, x: str) -> pl.DataFrame:
    """The rows of each whole training, with its name as `path`: a line that others continue is repeated for each of them.

    A picture that shows one training per panel can then show every line from the start of stage 1. A line that goes on
    after a fork of it is a training of its own too.
    """
    lines = frame[LINE].unique(maintain_order=True).to_list()
    before = parents(lines, staged=x in POSITIONS.values())
    begins = dict(frame.group_by(LINE).agg(pl.col(x).min()).iter_rows())
    stops = dict(frame.group_by(LINE).agg(pl.col(x).max()).iter_rows())
    latest = {parent: max(begins[line] for line in lines if before.get(line) == parent) for parent in before.values()}
    parts = []
    for end in (line for line in lines if line not in latest or stops[line] > latest[line]):
        chain, rows, start = [end], [frame.filter(pl.col(LINE) == end)], begins[end]
        while chain[0] in before:
            chain.insert(0, before[chain[0]])
            rows.insert(0, frame.filter(pl.col(LINE) == chain[0], pl.col(x) <= start))
            start = min(start, begins[chain[0]])  # a parent may hold no row so early
        parts.append(pl.concat(rows).with_columns(pl.lit(" → ".join(chain)).alias("path")))
    return pl.concat(parts)


def joined(
    frame: pl.DataFrame, x: str, series: list[str], *, continued: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """The rows, and before each line's rows the last ones of its parent, so that it is drawn from where it began.

    The added rows, one for each of the `series`, are marked by the column `joint`. `continued` gives the parents of lines; by
    default their names do.
    """
    parts = [frame.with_columns(pl.lit(False).alias(JOINT))]
    if continued is None:
        continued = parents(frame[LINE].unique(maintain_order=True), staged=x in POSITIONS.values())
    for line, parent in continued.items():
        start = frame.filter(pl.col(LINE) == line)[x].min()
        before = frame.filter(pl.col(LINE) == parent, pl.col(x) <= start).sort(x)
        last = before.unique(series, keep="last", maintain_order=True) if series else before.tail(1)
        parts.append(last.with_columns(pl.lit(line).alias(LINE), pl.lit(True).alias(JOINT)))
    return pl.concat(parts)


def with_borders(frame: pl.DataFrame, x: str) -> pl.DataFrame:
    """The table with `border`, the position at which its line's stage begins, and the stage's name; null in stage 1."""
    own = next(own for own, position in POSITIONS.items() if position == x)
    start = pl.col(x) - pl.col(own)
    begins = (start > pl.col(x).min()) & pl.col("stage").is_not_null()
    return frame.with_columns(
        pl.when(begins).then(start).alias(BORDER),
        pl.when(begins).then(pl.format("stage {} →", "stage")).alias(BORDER_NAME),
    )
