"""The part of a table that is drawn: the needed columns, the finite rows, and a count of the rows left out.

Every plot passes its table through `drawable`, so a wrong column, an empty table, or one too long for a picture gives the
same error everywhere, and its rows through `inline`, so a chart may have more rows than altair's own limit of 5,000.

    >>> import polars as pl
    >>> table = pl.DataFrame({"revision": ["a", "b"], "step": [0, 10], "tokens": [0, 40], "rms": [0.02, float("nan")]})
    >>> drawable(table, "rms", x="step").left_out
    '1 value not finite'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.plots.lines import BORDER, BORDER_NAME, JOINT, LINE, POSITIONS, time_column, with_line
from olmo_dynamics.quantities import known_axes

MAX_ROWS = 200_000
"""The most rows of one picture that a browser still draws."""

PARTS = " · "
"""The sign between the parts of a panel's name, each of which has a line of its own above the panel."""

XS = ("step", "tokens")
"""The columns that the time axis can show."""

LABELS = ("tensor", "site", "input", "layer", "role", "embedding", "domain", "quantile", "token_quantile", "rank", "top",
          "decile", "threshold", "rms_threshold", "feature", "position", "expert", "partner", "choice")  # fmt: skip
"""Columns that identify the series of a row in tables of the built-in groups, in the order of titles and tooltips."""

ROLES = ("embed_tokens", "input_layernorm", "q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm",
         "post_attention_layernorm", "gate", "gate_proj", "up_proj", "down_proj", "post_feedforward_layernorm", "norm",
         "lm_head")  # fmt: skip
"""Tensor roles in the order of the forward pass."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that can be drawn, and a note on those left out."""

    frame: pl.DataFrame
    left_out: str
    x: str = "step"  # the column that the time axis shows

    def has_several(self, column: str) -> bool:
        """True if the rows hold more than one value in a column (null counts as one)."""
        return column in self.frame.columns and self.frame[column].n_unique() > 1

    @property
    def counts_through(self) -> bool:
        """True if the time axis counts through all stages."""
        return self.x in POSITIONS.values()

    @property
    def span(self) -> str:
        """The number of revisions and lines of training, and their first and last step."""
        count, places = self.frame["revision"].n_unique(), self.frame["step"].drop_nulls()
        several = LINE in self.frame.columns and self.frame[LINE].n_unique() > 1
        words = f"{count} revision{'s' if count > 1 else ''}"
        words += f" in {self.frame[LINE].n_unique()} lines of training" if several else ""
        if places.is_empty():
            return words
        if (
            not self.counts_through
            and "stage" in self.frame.columns
            and self.frame["stage"].drop_nulls().n_unique() > 1
        ):
            words += ", each stage from its own step 0"
        if self.counts_through and POSITIONS["step"] in self.frame.columns:
            words, places = f"{words}, counted through all stages", self.frame[POSITIONS["step"]].drop_nulls()
        low, high = int(places.to_numpy().min()), int(places.to_numpy().max())
        return f"{words}, step {low:,}" + ("" if count == 1 else f" to {high:,}")

    @property
    def subtitle(self) -> str:
        """The subtitle's line about the rows."""
        return "; ".join(part for part in (self.span, self.left_out) if part) + "."


def inline(frame: pl.DataFrame) -> alt.InlineData:
    """The rows as data written into a chart, without columns that no mark shows.

    Altair limits the rows of a frame, but not of inline data, and leaves them unchecked if set after the fact.
    """
    hidden = [name for name in ("stage", "ingredient") if name in frame.columns]
    rows = frame.drop(hidden).to_dicts()
    sparse = [name for name in (BORDER, BORDER_NAME, JOINT) if name in frame.columns]
    for row in rows if sparse else ():
        for name in sparse:
            if not row[name]:
                del row[name]
    data = alt.InlineData(values=[])
    data["values"] = rows
    return data


def labels() -> tuple[str, ...]:
    """Columns that identify the series of a row: those of built-in groups, then the axes of other known groups."""
    return tuple(dict.fromkeys((*LABELS, *known_axes())))


def drawable(
    frame: pl.DataFrame, value: str, *, x: str | None, also: Sequence[str] = (), most: int | None = MAX_ROWS
) -> Rows:
    """Select the labels, `x`, `value` and `also` of the rows whose value is finite and whose `x`, if given, is not null.

    The column `line` is kept if it has several values. Where the rows are of several stages with known positions, these
    take the place of `x`.

    Raises:
        OptionError: a column is missing, the value is not a number, or there is nothing, or too much, to draw.
    """
    if x not in (*XS, None):
        raise OptionError(f"x must be 'step' or 'tokens' (got {x!r})")
    require(frame, "revision", *XS, value, *also)
    if not frame[value].dtype.is_numeric():
        raise OptionError(f"the drawn column must hold numbers; {value!r} holds {frame[value].dtype}")
    named = with_line(frame)
    time = time_column(named, x) if x else None
    positions = POSITIONS.values() if time_column(named, x or "step") in POSITIONS.values() else ()
    known = ("revision", "stage", "ingredient", LINE, *XS, *positions, *labels(), value, *also)
    of_experts = "expert" in frame.columns and not frame["expert"].is_null().all()  # otherwise the label is empty
    kept = named.select(column for column in named.columns if column in known and (of_experts or column != "expert"))
    finite = kept.filter(pl.col(value).cast(pl.Float64).is_finite())
    placed = finite.filter(pl.col(time).is_not_null()) if time else finite
    unplaced = finite.filter(pl.col(time).is_null())["revision"].n_unique() if time else 0
    excluded = _excluded(named, value)
    left_out = _left_out(
        kept.height - finite.height - excluded,
        excluded,
        unplaced,
        f"{x}" if time == x else "a known place in the training",
    )
    if placed.is_empty():
        raise OptionError(f"the table must hold values of {value!r} to draw (got none: {left_out or 'no rows'})")
    one_line = placed.drop(LINE) if placed[LINE].n_unique() == 1 else placed
    _require_at_most(most, one_line, value)
    return Rows(_rounded(one_line, value), left_out, time or "step")


def require(frame: pl.DataFrame, *columns: str) -> None:
    """Check that columns are in the table.

    Raises:
        OptionError: a column is missing; the message lists the columns of the table.
    """
    for column in columns:
        if column not in frame.columns:
            near = did_you_mean(column, frame.columns)
            raise OptionError(f"the table must have a column {column!r} (got {', '.join(frame.columns)}){near}")


def in_order(frame: pl.DataFrame, column: str) -> list[str]:
    """The values of a text column: tensor roles in the order of the forward pass, others in order of appearance.

    Of names in parts, those with the same first part stand together.
    """
    values = [str(value) for value in frame[column].drop_nulls().unique(maintain_order=True)]
    firsts = list(dict.fromkeys(value.split(PARTS)[0] for value in values))
    firsts.sort(key=lambda first: ROLES.index(first) if first in ROLES else len(ROLES))
    return sorted(values, key=lambda value: firsts.index(value.split(PARTS)[0]))


def _rounded(frame: pl.DataFrame, value: str) -> pl.DataFrame:
    """Values rounded to six digits: more than a picture shows, and a third of the page's size."""
    return frame.with_columns(pl.col(value).cast(pl.Float64).round_sig_figs(6))


def _require_at_most(most: int | None, frame: pl.DataFrame, value: str) -> None:
    if most is not None and frame.height > most:
        raise OptionError(
            f"at most {most:,} rows can be drawn; {value!r} has {frame.height:,}; "
            "thin the table with olmo_dynamics.frames.thin, which keeps every extreme, or filter it"
        )


def _excluded(frame: pl.DataFrame, value: str) -> int:
    """The number of values that were not measured since the published bytes are not the revision's."""
    if "status" not in frame.columns or frame["status"].dtype != pl.String:
        return 0
    return frame.filter(pl.col("status") == "excluded", ~pl.col(value).cast(pl.Float64).is_finite()).height


def _left_out(not_finite: int, excluded: int, unplaced: int, x: str) -> str:
    words = []
    if excluded:
        words.append(f"{excluded:,} value{'s' if excluded > 1 else ''} excluded, not of these revisions")
    if not_finite:
        words.append(f"{not_finite:,} value{'s' if not_finite > 1 else ''} not finite")
    if unplaced:
        words.append(f"{unplaced:,} revision{'s' if unplaced > 1 else ''} without {x}")
    return ", ".join(words)
