"""The append log: an array's rows in files of their own, or in a file with their neighbours where they are small.

In layout 3 a file that rows share is rewritten beside itself and renamed, so the bytes of a finished row never change in
place (`row_files`). In layout 2 numbers that share a file lie uncompressed, and a row is written in its place.

    >>> writer = RowWriter(path)  # doctest: +SKIP
    >>> writer.add(spec, 7, values[np.newaxis])  # doctest: +SKIP
    >>> writer.flush()  # doctest: +SKIP
    >>> read_rows(path, spec, np.ones(8, dtype=bool)).shape  # doctest: +SKIP
    (8, 147)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from olmo_dynamics.files import (
    Place,
    PlaceFile,
    beside,
    mapped,
    overwrite,
    sync_files,
    write_atomic,
    write_together,
)
from olmo_dynamics.store import row_files
from olmo_dynamics.store.row_files import DamagedRowsError
from olmo_dynamics.store.zarr_format import TEXT, ArraySpec, chunk_path, decode, empty_rows, encode, is_fill


class RowWriter:
    """Rows on their way to the disk; those of layout 3 are gathered, and written by `flush` all together."""

    def __init__(self, store: Place, *, partial: Place | None = None) -> None:
        self._store, self._partial = store, partial or beside(store, ".partial")
        self._others: list[PlaceFile] = []
        self._files: dict[tuple[str, int], tuple[ArraySpec, dict[int, bytes | None]]] = {}
        self._new: set[tuple[str, int]] = set()
        self._changed: list[Path] = []

    def add(self, spec: ArraySpec, start: int, rows: np.ndarray) -> None:
        """Write rows from `start` on, whatever the array's shape so far; other rows of their files stay as they are."""
        if spec.in_rows:
            for row, values in enumerate(rows, start):
                self._set(spec, row, encode(np.asarray(values), spec))
        else:
            self._changed += _write_in_place(self._store, spec, start, rows)

    def put(self, path: Place, data: bytes) -> None:
        """Write another file, after those of rows and in the order of the calls."""
        self._others.append((path, data))

    def drop(self, spec: ArraySpec, row: int) -> None:
        """Take a row of layout 3 out of its file."""
        self._set(spec, row, None)

    def make_files(self, spec: ArraySpec, rows: int) -> None:
        """Make the files that this many rows of layout 3 lie in, and at least one, unless they are there."""
        for number in reversed(range(max(1, -(-rows // spec.chunks[0])))):
            path = chunk_path(self._store / spec.path, spec, number)
            if not path.exists():
                self.replace_file(spec, number)
            elif isinstance(
                path, Path
            ):  # those before it are there too; objects that were written together come in any order
                return

    def replace_file(self, spec: ArraySpec, number: int) -> None:
        """Write a file of layout 3 anew: it loses the rows that are there."""
        self._new.add((spec.path, number))
        self._files.setdefault((spec.path, number), (spec, {}))

    def flush(self) -> None:
        """Put everything that was added on the disk.

        Raises:
            DamagedRowsError: a file that holds other rows as well is missing or damaged.
        """
        if self._files or self._others:
            write_together(self._contents(), partial=self._partial)
        if self._changed:
            sync_files(dict.fromkeys(self._changed))
        self._files, self._new, self._changed, self._others = {}, set(), [], []

    def _set(self, spec: ArraySpec, row: int, data: bytes | None) -> None:
        number, place = divmod(row, spec.chunks[0])
        self._files.setdefault((spec.path, number), (spec, {}))[1][place] = data

    def _contents(self) -> Iterator[PlaceFile]:
        yield from mapped(self._store, self._content, list(self._files))
        yield from self._others

    def _content(self, key: tuple[str, int]) -> PlaceFile:
        number, (spec, rows) = key[1], self._files[key]
        held: dict[int, bytes | None] = {}
        if key not in self._new and len(rows) < spec.chunks[0]:
            first = number * spec.chunks[0]
            held.update(row_files.read_file(self._store, spec, number, [first + place for place in rows]))
        kept = {place: data for place, data in {**held, **rows}.items() if data is not None}
        return chunk_path(self._store / spec.path, spec, number), row_files.build(kept, spec)


def read_rows(store: Place, spec: ArraySpec, needed: np.ndarray) -> np.ndarray:
    """All rows of an array; fill where they are not needed, or nothing was written.

    Raises:
        DamagedRowsError: some of those needed are damaged, or their file is.
    """
    found = empty_rows(spec, len(needed))
    for rows, values in _pieces(store, spec, needed):
        found[rows] = values
    return found


def read_row(store: Place, spec: ArraySpec, row: int) -> np.ndarray:
    """One row of an array, fill where nothing was written.

    Raises:
        DamagedRowsError: the row, or its file, is damaged.
    """
    for _, values in _pieces(store, spec, np.arange(row + 1) == row):
        return np.asarray(values[0])
    return np.asarray(empty_rows(spec, 1)[0])


def read_columns(store: Place, spec: ArraySpec, needed: np.ndarray, columns: slice) -> np.ndarray:
    """Some numbers of each row from the first to the last that is needed, laid flat: [rows, columns].

    Raises:
        DamagedRowsError: some of the rows needed are damaged, or their file is.
    """
    there = np.flatnonzero(needed)
    first, count = (int(there[0]), int(there[-1] - there[0]) + 1) if len(there) else (0, 0)
    dtype = object if spec.dtype == TEXT else spec.dtype
    found = np.full((count, columns.stop - columns.start), spec.fill, dtype=dtype)
    for rows, values in _pieces(store, spec, needed):
        found[rows - first] = values.reshape(len(rows), -1)[:, columns]
    return found


def _pieces(store: Place, spec: ArraySpec, needed: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each file the rows that are there and needed, and their values."""
    if spec.in_rows:
        yield from row_files.read(store, spec, needed)
        return
    for number, rows in row_files.files(spec, needed):
        path = chunk_path(store / spec.path, spec, number)
        if path.exists():
            yield rows, _read_chunk(path, spec, rows)[rows - number * spec.chunks[0]]


def _read_chunk(path: Place, spec: ArraySpec, rows: np.ndarray) -> np.ndarray:
    """A chunk of layout 2, which has no checksum, but an exact length."""
    try:
        held = decode(path.read_bytes(), spec)
        if len(held) == spec.chunks[0]:
            return held
        reason = f"its file holds {len(held)} rows and must hold {spec.chunks[0]}"
    except (ValueError, OSError) as error:
        reason = str(error)
    raise DamagedRowsError(spec.path, rows.tolist(), reason)


def _write_in_place(store: Place, spec: ArraySpec, start: int, rows: np.ndarray) -> Iterator[Path]:
    """Write rows of layout 2; returns the files that are still to be flushed."""
    assert isinstance(store, Path)
    per_chunk = spec.chunks[0]
    done = 0
    while done < len(rows):
        number, offset = divmod(start + done, per_chunk)
        part = rows[done : done + per_chunk - offset]
        path = chunk_path(store / spec.path, spec, number)
        assert isinstance(path, Path)
        yield from _write_into_chunk(store, spec, path, offset, part)
        done += len(part)


def _write_into_chunk(store: Path, spec: ArraySpec, path: Path, offset: int, rows: np.ndarray) -> Iterator[Path]:
    exists, is_whole = path.exists(), len(rows) == spec.chunks[0]
    if is_fill(rows, spec) and (is_whole or not exists):
        path.unlink(missing_ok=True)
    elif exists and not is_whole and not spec.is_compressed:
        data = encode(rows, spec)
        overwrite(path, offset * (len(data) // len(rows)), data)
        yield path
    else:
        chunk = rows if is_whole else _around(rows, offset, spec, path.read_bytes() if exists else None)
        write_atomic(path, encode(chunk, spec), partial=beside(store, ".partial"))


def _around(rows: np.ndarray, offset: int, spec: ArraySpec, data: bytes | None) -> np.ndarray:
    """A chunk with these rows in their places, and the other rows from its file, or empty."""
    chunk = empty_rows(spec, spec.chunks[0]) if data is None else decode(data, spec).copy()
    chunk[offset : offset + len(rows)] = rows
    return chunk
