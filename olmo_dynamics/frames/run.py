"""A run: its published revisions, as a table.

>>> from olmo_dynamics.frames.run import Run
>>> run = Run("allenai/OLMo-2-0425-1B")  # doctest: +SKIP
>>> run.revisions.head()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import polars as pl

from olmo_dynamics.checkpoints import Checkpoint, Source, open_source, select
from olmo_dynamics.checkpoints.listed import ListedSource
from olmo_dynamics.names import Revision

_SCHEMA = {
    "revision": pl.String,
    "stage": pl.Int64,
    "ingredient": pl.String,
    "step": pl.Int64,
    "tokens": pl.Int64,
    "token_label": pl.String,
    "format": pl.String,
    "commit": pl.String,
    "seed": pl.String,
    "line": pl.String,
    "position_step": pl.Int64,
    "position_tokens": pl.Int64,
}

_FIELDS = {"revision": "name"}


class Run:
    """A source of revisions: a hub repo id, or a folder whose sub-folders are revisions.

    With `lists` (official lists of native checkpoints, CSV files or folders of them), listed steps that the source lacks are
    revisions too.
    """

    def __init__(self, source: str | Path | Source, *, lists: Sequence[str | Path] | str | Path = ()) -> None:
        opened = source if isinstance(source, Source) else open_source(source)
        places = [lists] if isinstance(lists, str | Path) else lists
        self.source = ListedSource(opened, places) if places else opened

    @property
    def name(self) -> str:
        """The repo id, or the folder."""
        return self.source.name

    @cached_property
    def revisions(self) -> pl.DataFrame:
        """One row per revision: name, stage, ingredient, step, tokens, token label, format, commit, seed, line and position."""
        return revisions_frame(self.source.revisions())

    def select(self, expression: str) -> list[Revision]:
        """The revisions that an expression such as `stage1:log24,main` selects.

        Raises:
            SelectionError: the expression cannot be read, or matches nothing.
        """
        return select(self.source.revisions(), expression)

    def open(self, revision: str | Revision) -> Checkpoint:
        """One checkpoint, pinned to its commit.

        Raises:
            UnknownRevisionError: there is no such revision; the message shows near names.
        """
        return self.source.open(self.source.find(revision) if isinstance(revision, str) else revision)

    def __repr__(self) -> str:
        return f"Run({self.name!r})"


def availability_frame(source: ListedSource, expression: str = "all") -> pl.DataFrame:
    """The selected revisions as `revisions_frame` gives them, with the places where each can be fetched.

    `hub` is true if the source has it, `native` if a list does, `native_url` is its directory there.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
    """
    joined = {each.revision.name: each for each in source.availability()}
    chosen = [joined[each.name] for each in select([each.revision for each in joined.values()], expression)]
    return revisions_frame([each.revision for each in chosen]).with_columns(
        pl.Series("hub", [each.hub for each in chosen], dtype=pl.Boolean),
        pl.Series("native", [bool(each.native_url) for each in chosen], dtype=pl.Boolean),
        pl.Series("native_url", [each.native_url for each in chosen], dtype=pl.String),
    )


def revisions_frame(revisions: list[Revision]) -> pl.DataFrame:
    """Revisions as a table, in the given order."""
    columns = {name: [getattr(each, _FIELDS.get(name, name)) for each in revisions] for name in _SCHEMA}
    return pl.DataFrame(columns, schema=_SCHEMA)


def drop_repeats(frame: pl.DataFrame) -> pl.DataFrame:
    """A table of revisions without seeds if there are none, and without positions that equal the steps and tokens."""
    own = {"position_step": "step", "position_tokens": "tokens"}
    idle = [name for name, counted in own.items() if frame[name].equals(frame[counted])]
    return frame.drop(*idle, *(["seed"] if frame["seed"].is_null().all() else []))
