"""The append log: an array's rows in files of their own, or in a file with their neighbours where they are small.

Numbers that share a file lie uncompressed, so a row is written in its place, and read from it, without touching the others.
Only a row's writer looks at it before its marks are set; the marks are one byte per row.

    >>> write_rows(path, spec, 7, values[np.newaxis])  # doctest: +SKIP
    >>> read_rows(path, spec, 0, 8).shape  # doctest: +SKIP
    (8, 147)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from olmo_dynamics.store.files import beside, overwrite, write_atomic
from olmo_dynamics.store.zarr_format import ArraySpec, chunk_path, decode, empty_rows, encode, is_fill


def write_rows(store: Path, spec: ArraySpec, start: int, rows: np.ndarray) -> None:
    """Write rows from `start` on, whatever the array's shape so far; other rows of their chunks stay as they are."""
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
    elif exists and not is_whole and not spec.is_compressed:
        data = encode(rows, spec)
        overwrite(path, offset * (len(data) // len(rows)), data)
    else:
        chunk = rows if is_whole else _around(rows, offset, spec, path.read_bytes() if exists else None)
        write_atomic(path, encode(chunk, spec), partial=beside(store, ".partial"))


def _around(rows: np.ndarray, offset: int, spec: ArraySpec, data: bytes | None) -> np.ndarray:
    """A chunk with these rows in their places, and the other rows from its file, or empty."""
    chunk = empty_rows(spec, spec.chunks[0]) if data is None else decode(data, spec).copy()
    chunk[offset : offset + len(rows)] = rows
    return chunk


def read_rows(store: Path, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
    """Rows of an array of numbers, fill where nothing was written."""
    found = empty_rows(spec, stop - start)
    row_bytes = found[:1].nbytes
    for path, first, last, offset in _files(store, spec, start, stop):
        with path.open("rb", buffering=0) as file:
            file.seek(offset * row_bytes)
            found[first:last] = decode(file.read(-1 if spec.is_compressed else (last - first) * row_bytes), spec)
    return found


def read_columns(store: Path, spec: ArraySpec, rows: tuple[int, int], columns: slice) -> np.ndarray:
    """Some numbers of each row, laid flat: [rows, columns]."""
    found = np.full((rows[1] - rows[0], columns.stop - columns.start), spec.fill, dtype=spec.dtype)
    for path, first, last, offset in _files(store, spec, *rows):
        held = decode(path.read_bytes(), spec)
        found[first:last] = held.reshape(len(held), -1)[offset : offset + last - first, columns]
    return found


def _files(store: Path, spec: ArraySpec, start: int, stop: int) -> Iterator[tuple[Path, int, int, int]]:
    """The files of some rows: for each its path, the first and last of these rows in it, and its own row to begin at."""
    per_chunk = spec.chunks[0]
    for number in range(start // per_chunk, -(-stop // per_chunk)):
        path = chunk_path(store / spec.path, spec, number)
        if path.exists():
            first, last = max(start, number * per_chunk), min(stop, (number + 1) * per_chunk)
            yield path, first - start, last - start, first - number * per_chunk
