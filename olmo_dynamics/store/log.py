"""The append log: an array's rows in files of their own, or in a file with their neighbours where they are small.

Numbers lie uncompressed, so a row is put in its place, and read from it, without touching the others of its file. Nothing
but a row's writer looks at it before the marks say that it is there, and the marks are one byte a row.

    >>> write_rows(path, spec, 7, values[np.newaxis])  # doctest: +SKIP
    >>> read_rows(path, spec, 0, 8).shape  # doctest: +SKIP
    (8, 147)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from olmo_dynamics.store.files import beside, overwrite, write_atomic
from olmo_dynamics.store.zarr_format import TEXT, ArraySpec, chunk_path, decode, empty_rows, encode, is_fill


def write_rows(store: Path, spec: ArraySpec, start: int, rows: np.ndarray) -> None:
    """Write rows from `start` on, whatever shape the array has so far; other rows of their chunks stay as they are."""
    per_chunk = spec.chunks[0]
    done = 0
    while done < len(rows):
        number, offset = divmod(start + done, per_chunk)
        part = rows[done : done + per_chunk - offset]
        _write_into_chunk(store, spec, chunk_path(store / spec.path, spec, number), offset, part)
        done += len(part)


def _write_into_chunk(store: Path, spec: ArraySpec, path: Path, offset: int, rows: np.ndarray) -> None:
    exists, is_whole = path.exists(), len(rows) == spec.chunks[0]
    if is_fill(rows, spec) and (is_whole or not exists):
        path.unlink(missing_ok=True)
    elif exists and not is_whole and spec.dtype != TEXT:
        data = encode(rows, spec)
        overwrite(path, offset * (len(data) // len(rows)), data)
    else:
        chunk = decode(path.read_bytes(), spec) if exists and not is_whole else empty_rows(spec, spec.chunks[0])
        chunk[offset : offset + len(rows)] = rows
        write_atomic(path, encode(chunk, spec), partial=beside(store, ".partial"))


def read_rows(store: Path, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
    """Rows of an array of numbers, fill where nothing was written."""
    found = empty_rows(spec, stop - start)
    row_bytes = found[:1].nbytes
    for path, first, last, offset in _files(store, spec, start, stop):
        with path.open("rb") as file:
            file.seek(offset * row_bytes)
            found[first:last] = decode(file.read((last - first) * row_bytes), spec)
    return found


def read_columns(store: Path, spec: ArraySpec, rows: tuple[int, int], columns: slice) -> np.ndarray:
    """Some numbers of each row, laid flat: [rows, columns]; of large rows only these are read."""
    width = math.prod(spec.shape[1:])
    found = np.full((rows[1] - rows[0], columns.stop - columns.start), spec.fill, dtype=spec.dtype)
    for path, first, last, offset in _files(store, spec, *rows):
        held = np.memmap(path, dtype=np.dtype(spec.dtype).newbyteorder("<"), mode="r").reshape(-1, width)
        found[first:last] = held[offset : offset + last - first, columns]
    return found


def _files(store: Path, spec: ArraySpec, start: int, stop: int) -> Iterator[tuple[Path, int, int, int]]:
    """The files of some rows: which of these rows each holds, from the how manieth of its own."""
    per_chunk = spec.chunks[0]
    for number in range(start // per_chunk, -(-stop // per_chunk)):
        path = chunk_path(store / spec.path, spec, number)
        if path.exists():
            first, last = max(start, number * per_chunk), min(stop, (number + 1) * per_chunk)
            yield path, first - start, last - start, first - number * per_chunk
