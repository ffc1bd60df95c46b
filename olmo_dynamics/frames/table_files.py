"""Tables written to files, each as a whole or not at all.

>>> write_frame(frame, Path("parameters.parquet"))  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import polars as pl
import polars.selectors as cs

from olmo_dynamics.files import atomic_writer, write_errors_named

_FORMULA = r"^([=+\-@\t\r])"
"""The beginnings by which a spreadsheet takes a cell for a formula."""


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a table to a .csv file, or to Parquet, under a temporary name, then rename it.

    Raises:
        DiskFullError: the disk is full; an earlier file of that name stays.
        StoreError: writing there is not allowed.
    """
    with write_errors_named(path), atomic_writer(path, partial=path.with_name(path.name + ".partial")) as file:
        sink: Any = _Sink(file)  # polars asks for more than it uses
        try:
            if path.suffix == ".csv":
                quote_formulas(frame).write_csv(sink)
            else:
                frame.write_parquet(sink)
        except Exception:
            if sink.error is not None:
                raise sink.error from None
            raise


def quote_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """Put an apostrophe before each text that a spreadsheet would take for a formula; numbers stay numbers.

    >>> quote_formulas(pl.DataFrame({"revision": ["=1+1", "step1"], "mean": [-1.0, 2.0]})).rows()
    [("'=1+1", -1.0), ('step1', 2.0)]
    """
    text = cs.string(include_categorical=True) | cs.enum()
    return frame.with_columns(text.cast(pl.String).str.replace(_FORMULA, "'${1}"))


class _Sink:
    """A file for polars, which turns errors of the system into its own: the first one is kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Write some bytes."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Do nothing: the writer of the file flushes it."""
