"""Files of rows, each row with a checksum of its own: the log of layout 3.

A file is a Zarr shard: an index of where each row begins and how long it is, with a checksum, and then the rows in order.
A row that is not there yet is absent from the index, which is not the same as a row of fill: so a file that is older than
its array's marks, as in a copy that was taken while the store was written, is told from one that holds all of its rows.

    >>> rows = parse(path.read_bytes(), spec)  # doctest: +SKIP
    >>> build({**rows, 3: encode(values, spec)}, spec)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from olmo_dynamics.files import ObjectPath, Place, fetch, mapped, read_start
from olmo_dynamics.store.checksums import seal, unseal
from olmo_dynamics.store.zarr_format import (
    CHECKSUM_BYTES,
    DOCUMENT,
    INDEX_BYTES,
    TEXT,
    ArraySpec,
    chunk_path,
    decompress,
    from_raw,
    read_json,
)

_ABSENT = 2**64 - 1

Rows = dict[int, bytes]
"""The bytes of some rows, each with its checksum, by their place in their file."""


class Found(IntEnum):
    """The state of a row on the disk; a row that is present may still be damaged."""

    ABSENT = 0
    PRESENT = 1
    DAMAGED = 2


class DamagedRowsError(Exception):
    """Rows of an array that cannot be read; readers name the revisions in a `StoreDamagedError`."""

    def __init__(self, array: str, rows: list[int], reason: str) -> None:
        super().__init__(f"{array}, rows {rows}: {reason}")
        self.array, self.rows, self.reason = array, rows, reason


def header_bytes(spec: ArraySpec) -> int:
    """The size of a file's index: all of a file without a row."""
    return spec.chunks[0] * INDEX_BYTES + CHECKSUM_BYTES


def parse(data: bytes, spec: ArraySpec) -> Rows:
    """The rows of a file.

    Raises:
        ValueError: the index is damaged, or the file is longer than its rows.
    """
    size = header_bytes(spec)
    index = _index(data[:size], spec)
    there = np.flatnonzero(index[:, 0] != _ABSENT)
    spans = [(int(start), int(start + length)) for start, length in index[there].tolist()]
    if len(data) > max((stop for _, stop in spans), default=size):
        raise ValueError("the file is longer than its rows")
    return {place: data[start:stop] for place, (start, stop) in zip(there.tolist(), spans, strict=True)}


def build(rows: Mapping[int, bytes], spec: ArraySpec) -> bytes:
    """The bytes of a file of some rows."""
    index = np.full((spec.chunks[0], 2), _ABSENT, dtype="<u8")
    places = sorted(rows)
    start = header_bytes(spec)
    for place in places:
        index[place] = start, len(rows[place])
        start += len(rows[place])
    return b"".join([seal(index.tobytes()), *(rows[place] for place in places)])


def files(spec: ArraySpec, needed: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The numbers of the files that hold some rows, and for each the rows, as numbers of rows of the array."""
    rows = np.flatnonzero(needed)
    numbers = rows // spec.chunks[0]
    for number in np.unique(numbers).tolist():
        yield number, rows[numbers == number]


def find(store: Place, spec: ArraySpec, needed: np.ndarray) -> np.ndarray:
    """By row, its state; ABSENT for those that are not needed."""
    found = np.zeros(len(needed), dtype=np.uint8)
    for number, rows in files(spec, needed):
        path = chunk_path(store / spec.path, spec, number)
        try:
            found[rows] = _are_there(path, spec, rows)
        except FileNotFoundError:
            found[rows] = Found.ABSENT if _is_of_older_copy(store, spec, number) else Found.DAMAGED
        except (ValueError, OSError):
            found[rows] = Found.DAMAGED
    return found


def fetch_shared(store: Place, specs: Iterable[ArraySpec]) -> None:
    """Read the files that rows share ahead, many at once, where each read is a request."""
    if isinstance(store, ObjectPath):
        shared = (spec for spec in specs if spec.in_rows and spec.chunks[0] > 1)
        fetch(
            chunk_path(store / spec.path, spec, number)
            for spec in shared
            for number in range(-(-max(1, spec.shape[0]) // spec.chunks[0]))
        )


def read(store: Place, spec: ArraySpec, needed: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each file the rows that are there and needed, and their values.

    Raises:
        DamagedRowsError: some of those needed are damaged, or their file is.
    """
    per_file = spec.chunks[0]
    numbered = list(files(spec, needed))
    contents = mapped(store, lambda each: read_file(store, spec, each[0], each[1].tolist()), numbered)
    for (_, rows), held in zip(numbered, contents, strict=True):
        there = [row for row in rows.tolist() if row % per_file in held]
        if there:
            yield np.array(there), _values(spec, {row: held[row % per_file] for row in there})


def read_file(store: Place, spec: ArraySpec, number: int, rows: list[int]) -> Rows:
    """The rows of one file; none where it is of an array that grew after a copy had passed it.

    Raises:
        DamagedRowsError: the file is missing, or its index is damaged; the error names `rows`.
    """
    try:
        return parse(chunk_path(store / spec.path, spec, number).read_bytes(), spec)
    except FileNotFoundError:
        if _is_of_older_copy(store, spec, number):
            return {}
        reason = "its file is missing"
    except (ValueError, OSError) as error:
        reason = _reason(error)
    raise DamagedRowsError(spec.path, rows, reason)


def damaged(spec: ArraySpec, rows: Mapping[int, bytes]) -> dict[int, str]:
    """Of some rows those that are damaged, each with the reason."""
    found = {}
    for row, data in rows.items():
        try:
            _row(data, spec)
        except ValueError as error:
            found[row] = str(error)
    return found


def _values(spec: ArraySpec, rows: Rows) -> np.ndarray:
    """The values of rows, by their number."""
    try:
        if spec.is_compressed or spec.dtype == TEXT:
            return np.concatenate([_row(data, spec) for data in rows.values()])
        return from_raw(b"".join([unseal(data) for data in rows.values()]), spec, len(rows))
    except ValueError as error:
        torn = damaged(spec, rows)
        raise DamagedRowsError(spec.path, list(torn or rows), str(error)) from None


def _row(data: bytes, spec: ArraySpec) -> np.ndarray:
    inner = unseal(data)
    return from_raw(decompress(inner) if spec.is_compressed else inner, spec, 1)


def _index(data: bytes, spec: ArraySpec) -> np.ndarray:
    return np.frombuffer(unseal(data), dtype="<u8").reshape(spec.chunks[0], 2)


def _are_there(path: Place, spec: ArraySpec, rows: np.ndarray) -> np.ndarray:
    """By row of a file, true if it is there; of an object that holds one row, its size tells."""
    if isinstance(path, ObjectPath) and spec.chunks[0] == 1:
        return np.full(len(rows), path.size > header_bytes(spec))
    index = _index(read_start(path, header_bytes(spec)), spec)
    there: np.ndarray = index[rows % spec.chunks[0], 0] != _ABSENT
    return there


def _is_of_older_copy(store: Place, spec: ArraySpec, number: int) -> bool:
    """True if an array's own `zarr.json` does not reach a file that the store's does: it was copied before it grew."""
    document: Any = read_json(store / spec.path / DOCUMENT)
    return bool(document and document["shape"][0] <= number * spec.chunks[0])


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else "its file cannot be read"
