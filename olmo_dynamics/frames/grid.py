"""From labelled arrays to rows: the columns that every table begins with, and one row per measured cell.

>>> grid = Grid(store)  # doctest: +SKIP
>>> grid.rows(("tensor",), grid.status("parameters", ("tensor",)) > 0)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from olmo_dynamics.checkpoints.catalog.revision_names import sort_key
from olmo_dynamics.quantities.declaration import STATUS, Status
from olmo_dynamics.store import Store

LEADING = ("revision", "stage", "ingredient", "step", "tokens", "seed", "line", "position_step", "position_tokens")
"""The columns that every table begins with."""

RUN_LABELS = ("run", "recipe", "size", "family", "phase", "phase_number", "starts_from")
"""The columns that follow them in the tables of several joined runs; the last three where one holds post-training or a re-run."""

STATUS_WORDS = {
    Status.NOT_MEASURED: "not measured",
    Status.MEASURED: "measured",
    Status.NONFINITE: "non-finite",
    Status.DEGENERATE: "degenerate",
    Status.EXCLUDED: "excluded",
    Status.ABSENT: "absent",
}
"""The status of a row, in words; `excluded` is short for: the published bytes are not this revision's."""

_COLUMN_NAMES = {"domain_of_sequence": "domain"}


def revisions_table(store: Store) -> pl.DataFrame:
    """The facts about each complete revision, by line of training and position; null where they are not known."""
    columns = {name: _series(name, values) for name, values in store.arrays("revisions").items() if name != "status"}
    frame = pl.DataFrame(columns).with_row_index("row")
    keys = [sort_key(revision) for revision in store.revisions()]
    if "run" in columns:
        runs = {name: place for place, name in enumerate(dict.fromkeys(columns["run"]))}
        keys = [(runs[run], *key) for run, key in zip(columns["run"], keys, strict=True)]
    first = [name for name in (*LEADING, *RUN_LABELS) if name in columns]
    ordered = frame.select("row", *first, *(name for name in columns if name not in first))
    return ordered[sorted(range(len(keys)), key=keys.__getitem__)]


class Grid:
    """The complete revisions of a store in the order tables show them, and its arrays in that order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        revisions = revisions_table(store)
        self.leading = revisions.select(*LEADING, *(name for name in RUN_LABELS if name in revisions.columns))
        self._order = revisions["row"].to_numpy()
        self._in_order = bool((np.diff(self._order.astype(np.int64)) == 1).all())

    def has(self, group: str, *names: str) -> bool:
        """True if the store declares the group and all these quantities of it; an older store may lack some."""
        return group in self.store.groups and all(name in self.store.group(group) for name in names)

    def array(self, group: str, name: str, at: dict[str, str | float] | None = None) -> np.ndarray:
        """A measured array, revisions in the table's order."""
        values = self.store.array(group, name, at=at)
        return values if self._in_order else values[self._order]

    def status(self, group: str, axes: tuple[str, ...]) -> np.ndarray:
        """The group's status over `axes`: the worst along axes that are not among them, repeated along those it lacks.

        Cells that are absent count only where all are.
        """
        own, status = self._own_status(group)
        across = tuple(place for place, name in enumerate(own, 1) if name not in axes)
        present = np.where(status == Status.ABSENT, np.uint8(Status.NOT_MEASURED), status).max(axis=across)
        status = np.where((status == Status.ABSENT).all(axis=across), np.uint8(Status.ABSENT), present)
        sizes = [len(self.store.axis(name)) for name in axes]
        narrow = [size if name in own else 1 for name, size in zip(axes, sizes, strict=True)]
        return np.broadcast_to(status.reshape(len(status), *narrow), (len(status), *sizes))

    def _own_status(self, group: str) -> tuple[tuple[str, ...], np.ndarray]:
        """The group's status and its axes; without one, a base cell is measured where some quantity has a value there."""
        declared = self.store.group(group)
        if STATUS in declared:
            return declared[STATUS].axes, self.array(group, STATUS)
        on_base = [exists(self.array(group, each.name)) for each in declared.quantities if each.axes == declared.axes]
        if on_base:
            return declared.axes, np.logical_or.reduce(on_base).astype(np.uint8) * np.uint8(Status.MEASURED)
        return (), np.full(len(self.leading), Status.MEASURED, dtype=np.uint8)

    def rows(self, axes: Iterable[str], kept: np.ndarray) -> pl.DataFrame:
        """One row for each true cell of `kept` [revision, *axes]: the leading columns, then the axes' labels."""
        places = np.nonzero(kept)
        columns = [column.gather(places[0]) for column in self.leading]
        for axis, place in zip(axes, places[1:], strict=True):
            columns += [column.gather(place) for column in self.labels(axis)]
        return pl.DataFrame(columns)

    def labels(self, axis: str) -> list[pl.Series]:
        """The labels and coordinates of an axis, as columns."""
        found = self.store.axis(axis)
        columns = {axis: found.labels, **found.coordinates}
        return [_series(_COLUMN_NAMES.get(name, name), values) for name, values in columns.items()]


def exists(values: np.ndarray) -> np.ndarray:
    """True where an array holds a value, and neither NaN nor -1."""
    found: np.ndarray = ~np.isnan(values) if values.dtype.kind == "f" else values != -1
    return found


def status_words(status: np.ndarray) -> pl.Series:
    """A status as a column of words; `status 7` for a code that only a later version knows."""
    codes = range(max(len(Status), int(status.max(initial=0)) + 1))
    words = [STATUS_WORDS[Status(code)] if code < len(Status) else f"status {code}" for code in codes]
    return pl.Series("status", words).gather(status.astype(np.uint32))


def numbers(name: str, values: np.ndarray) -> pl.Series:
    """A column of numbers; -1 among integers is null."""
    return _series(name, values)


def _series(name: str, values: np.ndarray) -> pl.Series:
    if values.dtype.kind == "U":
        texts = pl.Series(name, values.tolist(), dtype=pl.String)
        return texts.replace("", None) if name in ("ingredient", "seed", "size", "phase", "starts_from") else texts
    column = pl.Series(name, np.ascontiguousarray(values))
    if values.dtype != np.int64 or not (values == -1).any():
        return column
    return column.set(column == -1, None)
