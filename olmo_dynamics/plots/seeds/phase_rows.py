"""The rows of a base model and of its post-training as one training, on one axis.

A phase follows a run only where the table says so (`starts_from`). It is named as the training of its base, unless two phases of
one place in the order start there: then each is a training of its own name.

    >>> frame = pl.DataFrame({"run": ["base", "sft"], "recipe": ["a", "a-sft"], "phase": [None, "SFT"],
    ...                       "starts_from": [None, "base"], "phase_number": [0, 1], "position_tokens": [9, None]})
    >>> rooted(frame).select("run", "recipe", BRANCH).rows()
    [('base', 'a', None), ('sft', 'a', 'SFT')]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from olmo_dynamics.plots.axes import span, time_scale
from olmo_dynamics.plots.lines import (
    BORDER,
    BORDER_NAME,
    LINE,
    POSITIONS,
    joined,
    parents,
    time_column,
    with_borders,
    with_line,
)
from olmo_dynamics.plots.seeds.phase_axis import PLACE, SHARE, PhaseAxis, PhaseSection
from olmo_dynamics.plots.seeds.replicates import BRANCH, KIND, RUN_LABELS
from olmo_dynamics.plots.table import Rows, drawable
from olmo_dynamics.plots.theme import Style

PHASE, NUMBER, STARTS_FROM = "phase", "phase_number", "starts_from"
"""Columns of joined tables: the phase of a run, its number in the training, and the run that it starts from."""

_RERUN = "re-run"
_DIGITS = 6  # of a place


@dataclass(frozen=True, slots=True)
class PhaseRows(Rows):
    """Rows with their places on an axis of phases."""

    axis: PhaseAxis = field(kw_only=True)

    @property
    def span(self) -> str:
        """The number of revisions and lines, and the phases that have no place in the base's steps or tokens."""
        lines = self.frame[LINE].n_unique() if LINE in self.frame.columns else 1
        named = self.axis.names
        of_them = "their places in tokens are" if len(self.axis.sections) > 1 else "its place in tokens is"
        own = "their" if len(self.axis.sections) > 1 else "its"
        return (
            f"{self.frame['revision'].n_unique()} revisions in {lines} lines of training; {named} by {own} own steps, since "
            f"{of_them} not known"
        )


def phase_rows(frame: pl.DataFrame, value: str, *, x: str, also: Sequence[str], style: Style) -> PhaseRows | None:
    """The drawable rows of a table with a phase whose tokens are not known; None if it has no such phase.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    if not {PHASE, NUMBER, STARTS_FROM} <= set(frame.columns) or not frame.select(_beyond().any()).item():
        return None
    kept = list(dict.fromkeys([*also, PHASE, NUMBER, STARTS_FROM, *POSITIONS.values()]))
    rows = drawable(frame, value, x=None, also=kept)
    base, beyond = rows.frame.filter(~_beyond()), rows.frame.filter(_beyond(), pl.col("step").is_not_null())
    if beyond.is_empty():
        return None
    axis = _axis(base, beyond, x, style)
    if axis.has_base:
        base = base.filter(pl.col(axis.field).is_not_null())
        base = base.with_columns(pl.Series(PLACE, axis.in_base(base[axis.field].to_numpy())).round(_DIGITS))
    parts = [base] if axis.has_base else []
    for section in axis.sections:
        part = beyond.filter(pl.col(NUMBER) == section.number)
        parts.append(part.with_columns(pl.Series(PLACE, section.places(part["step"].to_numpy())).round(_DIGITS)))
    placed = pl.concat(parts, how="diagonal_relaxed")
    absent = rows.frame.filter(~pl.col("revision").is_in(placed["revision"].to_list()))["revision"].n_unique()
    words = f"{absent:,} revision{'s' if absent > 1 else ''} without a known place in the training" if absent else ""
    left_out = ", ".join(filter(None, (rows.left_out, words)))
    return PhaseRows(rooted(placed), left_out, PLACE, axis=axis)


def _beyond() -> pl.Expr:
    """True for a row of post-training whose position in tokens is not known."""
    return (pl.col(NUMBER).fill_null(0) > 0) & pl.col(POSITIONS["tokens"]).is_null()


def _axis(base: pl.DataFrame, beyond: pl.DataFrame, x: str, style: Style) -> PhaseAxis:
    """The base by its steps or tokens, and a section for each place in the order of the phases."""
    field = time_column(with_line(base), x)
    there = base[field].drop_nulls()
    has_base = len(there) > 0
    start, width, sections = (1.0 if has_base else 0.0), (SHARE if has_base else 1.0), []
    for number in sorted(beyond[NUMBER].unique()):
        part = beyond.filter(pl.col(NUMBER) == number)
        name = "/".join(part[PHASE].unique(maintain_order=True).to_list())
        sections.append(PhaseSection(number, name, start, start + width, float(part["step"].to_numpy().max())))
        start += width
    low, high = span(base.filter(pl.col(field).is_not_null()), field) if has_base else (0.0, 0.0)
    return PhaseAxis(field, time_scale(base, field, style), low, high, tuple(sections), has_base)


def rooted(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with `branch`, the phase or null; a phase that alone follows its base has the base's recipe, size and family.

    A re-run has that word in its recipe.
    """
    labels = [name for name in RUN_LABELS if name in frame.columns]
    runs = frame.unique("run", keep="first", maintain_order=True).select("run", PHASE, NUMBER, STARTS_FROM, *labels)
    told = {row["run"]: row for row in runs.iter_rows(named=True)}
    roots = {run: _root(run, told) for run in told}
    rivals: dict[tuple[str, object], set[object]] = {}
    for run, row in told.items():
        rivals.setdefault((roots[run], row[NUMBER]), set()).add(row["recipe"])
    split = {root for (root, number), recipes in rivals.items() if number and len(recipes) > 1}
    named = {run: told[root if root not in split else run] for run, root in roots.items()}
    columns = [
        pl.col("run").replace_strict({run: row[name] for run, row in named.items()}, return_dtype=pl.String).alias(name)
        for name in labels
    ]
    rerun = (
        pl.when(pl.col(PHASE) == _RERUN).then(pl.format("{} (re-run)", "recipe")).otherwise("recipe").alias("recipe")
    )
    branch = pl.when(pl.col(NUMBER).fill_null(0) > 0).then(PHASE).alias(BRANCH)
    return frame.with_columns(columns).with_columns(rerun, branch)


def _root(run: str, told: Mapping[str, Mapping[str, object]]) -> str:
    """The run in which the training of a run begins, as far as the table has it."""
    while (before := told[run][STARTS_FROM]) in told and before != run:
        run = str(before)
    return run


def joined_phases(frame: pl.DataFrame, axis: PhaseAxis, series: list[str]) -> pl.DataFrame:
    """The rows, with the last ones of the run that a line continues before its own, and the borders of stages and phases."""
    lines = frame[LINE].unique(maintain_order=True).to_list()
    staged = axis.field in POSITIONS.values()
    continued = parents(lines, staged=staged) | _phases(frame)
    both = joined(frame, PLACE, series, continued=continued)
    bordered = with_borders(both, axis.field) if staged else both.with_columns(
        pl.lit(None, pl.Float64).alias(BORDER), pl.lit(None, pl.String).alias(BORDER_NAME)
    )  # fmt: skip
    inside = pl.Series(BORDER, axis.in_base(bordered[BORDER].cast(pl.Float64).fill_null(float("nan")).to_numpy()))
    bordered = bordered.with_columns(inside.fill_nan(None).round(_DIGITS))
    for section in axis.sections:
        own = _beyond() & (pl.col(NUMBER) == section.number) & (section.start > 0)
        bordered = bordered.with_columns(
            pl.when(own).then(section.start).otherwise(BORDER).alias(BORDER),
            pl.when(own).then(pl.lit(f"{section.name} →")).otherwise(BORDER_NAME).alias(BORDER_NAME),
        )
    return bordered


def _phases(frame: pl.DataFrame) -> dict[str, str]:
    """By line of a phase, the line of the run that it starts from: the one that ends last, if a single one does."""
    found: dict[str, str] = {}
    for _, kind in frame.group_by(KIND, maintain_order=True):
        ends = kind.group_by("run", LINE, maintain_order=True).agg(pl.col(PLACE).max())
        for line, run in (
            kind.filter(pl.col(BRANCH).is_not_null()).select(LINE, STARTS_FROM).unique(maintain_order=True).rows()
        ):
            own = ends.filter(pl.col("run") == run).sort(PLACE, descending=True, maintain_order=True)
            if own.height and (own.height == 1 or own[PLACE][0] > own[PLACE][1]):
                found[line] = own[LINE][0]
    return found
