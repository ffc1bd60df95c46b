"""A run: its published revisions, as a table.

>>> from olmo_dynamics.frames.run import Run
>>> run = Run("allenai/OLMo-2-0425-1B")  # doctest: +SKIP
>>> run.revisions.head()  # doctest: +SKIP
>>> run[-1], run.at(step=10_000), len(run)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import polars as pl

from olmo_dynamics.checkpoints import Checkpoint, Source, open_source, select
from olmo_dynamics.checkpoints.listed import ListedSource
from olmo_dynamics.errors import OlmoDynamicsError, OptionError, UnknownRevisionError
from olmo_dynamics.frames.shown.run_timeline import run_html, run_text
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
_FEW = 3  # names in an error


class Run:
    """A source of revisions: a hub repo id, or a folder whose sub-folders are revisions.

    With `lists` (official lists of native checkpoints, CSV files or folders of them), listed steps that the source lacks are
    revisions too. `run[-1]` is the last revision, `run["main"]` the one of that name, `run.at(step=1000)` the one of that step;
    a notebook shows a run as a timeline of its stages.
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
        return revisions_frame(self._listed)

    @cached_property
    def _listed(self) -> list[Revision]:
        return self.source.revisions()

    def select(self, expression: str) -> list[Revision]:
        """The revisions that an expression such as `stage1:log24,main` selects.

        Raises:
            SelectionError: the expression cannot be read, or matches nothing.
        """
        return select(self.source.revisions(), expression)

    def at(
        self, *, step: int | None = None, tokens: int | None = None, stage: int | None = None, line: str | None = None
    ) -> Revision:
        """The revision of a step, or of a number of tokens.

        Args:
            step: updates made within its stage.
            tokens: tokens seen within its stage.
            stage: its stage, where several have that step.
            line: its line of training, such as `stage2/ingredient1`, where several of a stage have that step.

        Raises:
            OptionError: neither step nor tokens is given, or several revisions match.
            UnknownRevisionError: no revision matches; the message names the nearest.
        """
        if step is None and tokens is None:
            raise OptionError("at() needs a step or a number of tokens (got neither)")
        given = {"step": step, "tokens": tokens, "stage": stage, "line": line}
        asked = {name: value for name, value in given.items() if value is not None}
        words = ", ".join(f"{name} {value}" for name, value in asked.items())
        found = [each for each in self if all(getattr(each, name) == value for name, value in asked.items())]
        if not found:
            raise UnknownRevisionError(f"{self.name} has no revision of {words}{self._nearest(asked)}")
        if len(found) > 1:
            names = f"{', '.join(each.name for each in found[:_FEW])}{', …' if len(found) > _FEW else ''}"
            raise OptionError(
                f"at() must name one revision; {len(found)} have {words}: {names}; give stage= or line= too"
            )
        return found[0]

    def open(self, revision: str | int | Revision) -> Checkpoint:
        """One checkpoint, pinned to its commit; a number is a place among the revisions, as in `run[-1]`.

        Raises:
            UnknownRevisionError: there is no such revision; the message shows near names.
        """
        return self.source.open(revision if isinstance(revision, Revision) else self[revision])

    def __len__(self) -> int:
        return len(self._listed)

    def __bool__(self) -> bool:
        return True  # without listing the revisions

    def __iter__(self) -> Iterator[Revision]:
        return iter(self._listed)

    @overload
    def __getitem__(self, at: str | int) -> Revision: ...
    @overload
    def __getitem__(self, at: slice) -> list[Revision]: ...
    def __getitem__(self, at: str | int | slice) -> Revision | list[Revision]:
        """The revision of a name, or at a place in training order; of a slice, a list.

        Raises:
            UnknownRevisionError: there is none; the message shows near names, or how to name a step.
        """
        if isinstance(at, str):
            return self.source.find(at)
        if isinstance(at, slice) or -len(self) <= at < len(self):
            return self._listed[at]
        raise UnknownRevisionError(
            f"{self.name} has {len(self)} revisions, so a place must be {-len(self)} to {len(self) - 1} (got {at}); "
            f"for a step, use run.at(step={at})"
        )

    def _nearest(self, asked: dict[str, Any]) -> str:
        """The end of a message: the revisions nearest to a step or a number of tokens."""
        axis = "step" if "step" in asked else "tokens"
        known = sorted(
            (abs(getattr(each, axis) - asked[axis]), each.name) for each in self if getattr(each, axis) is not None
        )
        names = ", ".join(name for _, name in known[:_FEW])
        return f"; the nearest are {names}" if names else f"; no revision's {axis} are known"

    def _shown(self) -> list[Revision] | OlmoDynamicsError:
        """The revisions, or the reason why they cannot be listed: a display must not fail."""
        try:
            return self._listed
        except OlmoDynamicsError as error:
            return error

    def _repr_html_(self) -> str:
        """The timeline by stage, the formats and the known faults, as HTML."""
        return run_html(self.source, self._shown())

    def __str__(self) -> str:
        """The same as lines of text; it lists the revisions, which `repr` does not."""
        return run_text(self.source, self._shown())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The text of a terminal with IPython."""
        printer.text(repr(self) if cycle else str(self))

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
