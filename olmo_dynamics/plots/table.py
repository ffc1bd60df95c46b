"""The part of a table that is drawn: the needed columns, the finite rows, and a count of the rows left out.

Every plot passes its table through `drawable`, so a wrong column, an empty table, or one too long for a picture gives the
same error everywhere.

    >>> import polars as pl
    >>> table = pl.DataFrame({"revision": ["a", "b"], "step": [0, 10], "tokens": [0, 40], "rms": [0.02, float("nan")]})
    >>> drawable(table, "rms", x="step").left_out
    '1 value not finite'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.quantities import known_axes

MAX_ROWS = 5_000
"""The most rows of one picture: altair's own limit, and about what a browser draws smoothly."""

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

    def has_several(self, column: str) -> bool:
        """True if the rows hold more than one value in a column (null counts as one)."""
        return column in self.frame.columns and self.frame[column].n_unique() > 1

    @property
    def span(self) -> str:
        """The number of revisions, and their first and last step."""
        count = self.frame["revision"].n_unique()
        steps = self.frame["step"].drop_nulls()
        if steps.is_empty():
            return f"{count} revision{'s' if count > 1 else ''}"
        low, high = int(steps.to_numpy().min()), int(steps.to_numpy().max())
        return f"1 revision, step {low:,}" if count == 1 else f"{count} revisions, step {low:,} to {high:,}"

    @property
    def subtitle(self) -> str:
        """The subtitle's line about the rows."""
        return "; ".join(part for part in (self.span, self.left_out) if part) + "."


def labels() -> tuple[str, ...]:
    """Columns that identify the series of a row: those of built-in groups, then the axes of other known groups."""
    return tuple(dict.fromkeys((*LABELS, *known_axes())))


def drawable(frame: pl.DataFrame, value: str, *, x: str | None, also: Sequence[str] = ()) -> Rows:
    """Select the labels, `x`, `value` and `also` of the rows whose value is finite and whose `x`, if given, is not null.

    Raises:
        OptionError: a column is missing, the value is not a number, or there is nothing, or too much, to draw.
    """
    if x not in (*XS, None):
        raise OptionError(f"x must be 'step' or 'tokens' (got {x!r})")
    require(frame, "revision", *XS, value, *also)
    if not frame[value].dtype.is_numeric():
        raise OptionError(f"the drawn column must hold numbers; {value!r} holds {frame[value].dtype}")
    known = ("revision", "stage", "ingredient", *XS, *labels(), value, *also)
    of_experts = "expert" in frame.columns and not frame["expert"].is_null().all()  # otherwise the label is empty
    kept = frame.select(column for column in frame.columns if column in known and (of_experts or column != "expert"))
    finite = kept.filter(pl.col(value).cast(pl.Float64).is_finite())
    placed = finite.filter(pl.col(x).is_not_null()) if x else finite
    unplaced = finite.filter(pl.col(x).is_null())["revision"].n_unique() if x else 0
    left_out = _left_out(kept.height - finite.height, unplaced, f"{x}")
    if placed.is_empty():
        raise OptionError(f"the table must hold values of {value!r} to draw (got none: {left_out or 'no rows'})")
    return Rows(_limited(_rounded(placed, value), value), left_out)


def require(frame: pl.DataFrame, *columns: str) -> None:
    """Check that columns are in the table.

    Raises:
        OptionError: a column is missing; the message lists the columns of the table.
    """
    for column in columns:
        if column not in frame.columns:
            raise OptionError(f"the table must have a column {column!r} (got {', '.join(frame.columns)})")


def with_branch(rows: Rows) -> Rows:
    """Add `branch`, the stage and ingredient in words, if the rows hold more than one line of training."""
    present = [name for name in ("stage", "ingredient") if name in rows.frame.columns]
    if not present or rows.frame.select(present).n_unique() < 2:
        return rows
    parts = [pl.when(pl.col(name).is_not_null()).then(pl.format(f"{name} {{}}", pl.col(name))) for name in present]
    words = pl.concat_str(parts, separator=", ", ignore_nulls=True).replace("", "no stage")
    return Rows(rows.frame.with_columns(words.alias("branch")), rows.left_out)


def in_order(frame: pl.DataFrame, column: str) -> list[str]:
    """The values of a text column: tensor roles in the order of the forward pass, others in order of appearance."""
    values = [str(value) for value in frame[column].drop_nulls().unique(maintain_order=True)]
    return sorted(values, key=lambda value: ROLES.index(value) if value in ROLES else len(ROLES))


def _rounded(frame: pl.DataFrame, value: str) -> pl.DataFrame:
    """Values rounded to six digits: more than a picture shows, and a third of the page's size."""
    return frame.with_columns(pl.col(value).cast(pl.Float64).round_sig_figs(6))


def _limited(frame: pl.DataFrame, value: str) -> pl.DataFrame:
    if frame.height > MAX_ROWS:
        raise OptionError(
            f"at most {MAX_ROWS:,} rows can be drawn; {value!r} has {frame.height:,}; "
            "thin the table with olmo_dynamics.frames.thin, or filter it"
        )
    return frame


def _left_out(not_finite: int, unplaced: int, x: str) -> str:
    words = []
    if not_finite:
        words.append(f"{not_finite:,} value{'s' if not_finite > 1 else ''} not finite")
    if unplaced:
        words.append(f"{unplaced:,} revision{'s' if unplaced > 1 else ''} without {x}")
    return ", ".join(words)
