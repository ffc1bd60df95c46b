"""Stores with tables.

>>> store = open_store("olmo2-1b.zarr")  # doctest: +SKIP
>>> store.table("parameters").head()  # doctest: +SKIP
>>> export(store, "parameters", "parameters.parquet")  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.files import Place
from olmo_dynamics.frames.shown.recorded_display import store_html, store_text
from olmo_dynamics.frames.table_files import write_frame
from olmo_dynamics.frames.tables import table, table_names
from olmo_dynamics.store import Store
from olmo_dynamics.store.store import Mode


class RecordedStore(Store):
    """A store and its tables."""

    @property
    def tables(self) -> tuple[str, ...]:
        """The names that `table` accepts."""
        return table_names(self)

    def table(self, name: str) -> pl.DataFrame:
        """One table: `parameters`, `activations`, `loss`, `parameters.element_quantile`, …; see `tables`.

        Raises:
            OptionError: the store has no such table; the message names those it has.
        """
        return table(self, name)

    def _repr_html_(self) -> str:
        """Groups, revisions, sizes and probe as HTML; quantities tell their units when they are pointed at."""
        return store_html(self)

    def __str__(self) -> str:
        """The same as lines of text."""
        return store_text(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The text of a terminal with IPython."""
        printer.text(repr(self) if cycle else str(self))

    def __repr__(self) -> str:
        done, missing = len(self.done), len(self.missing)
        revisions = "1 revision" if done == 1 else f"{done} revisions"
        return f"RecordedStore({str(self.path)!r}: {revisions}, {missing} missing; {', '.join(self.groups)})"


def open_store(path: str | Place, *, mode: Mode = "r") -> RecordedStore:
    """Open a store, to read (`r`) or to append to as well (`a`).

    Raises:
        StoreError: there is no store, or it is not one of ours.
        StoreMismatchError: the store has another layout version.
    """
    return RecordedStore.open(path, mode=mode)


def export(store: Store, name: str, out: str | Path) -> Path:
    """Write one table to a .parquet or .csv file, which is there wholly or not at all; returns its path.

    Raises:
        OptionError: the store has no such table, or the file has another suffix.
        DiskFullError: no room; nothing is left behind.
        StoreError: the path cannot be written.
    """
    require_table_file(out)
    return write_table(table(store, name), out)


def write_table(frame: pl.DataFrame, out: str | Path) -> Path:
    """Write a table to a .parquet or .csv file, as `export` does; returns its path.

    Raises:
        OptionError: the file has another suffix.
        DiskFullError: no room; nothing is left behind.
        StoreError: the path cannot be written.
    """
    path = require_table_file(out)
    write_frame(frame, path)
    return path


def require_table_file(out: str | Path) -> Path:
    """The path, if its suffix is that of a table.

    Raises:
        OptionError: it is another one.
    """
    path = Path(out)
    if path.suffix not in (".parquet", ".csv"):
        raise OptionError(f"a table is written to a .parquet or .csv file (got {path.name})")
    return path
