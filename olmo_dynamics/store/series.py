"""The series of an array: the log's numbers rearranged, so that one number over all revisions lies in one small piece.

A shard holds 512 revisions, in compressed pieces of all of them by a few features (sites, tensors, …): Zarr's sharding, so
any reader understands it. Shards lie beside the log's files in the same array under names of their own (`c/0/0` beside
`c.0.0`), and the array's `zarr.json` says which of the two is read. So the root's one rename turns all arrays to their
series, an append turns them back without moving a byte, and no file that somebody may be reading ever goes away.

    >>> write_shard(path, spec, 0, is_there)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.store.files import atomic_writer, beside
from olmo_dynamics.store.log import read_columns
from olmo_dynamics.store.zarr_format import (
    CHUNK_ROWS,
    TEXT,
    ZSTD,
    ArraySpec,
    array_document,
    compress,
    is_fill,
    to_bytes,
)

PIECE_BYTES = 1 << 18  # 256 KiB, before compression
PASS_BYTES = 1 << 27  # 128 MiB, held at a time while a shard is written
_ABSENT = 2**64 - 1  # in a shard's index: a piece that is all fill


def has_series(spec: ArraySpec) -> bool:
    """True if an array gains by a series: numbers whose log is more than one file per `CHUNK_ROWS` revisions."""
    return spec.dtype != TEXT and len(spec.shape) > 1 and spec.chunks[0] < CHUNK_ROWS


def series_document(spec: ArraySpec) -> dict[str, Any]:
    """An array's `zarr.json` that points at its series."""
    piece, grid = _geometry(spec)
    shard = [CHUNK_ROWS, *(size * count for size, count in zip(piece, grid, strict=True))]
    sharding = {
        "chunk_shape": [CHUNK_ROWS, *piece],
        "codecs": [to_bytes(spec.dtype), ZSTD],
        "index_codecs": [to_bytes("uint64")],
        "index_location": "end",
    }
    return {
        **array_document(spec),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def shard_path(store: Path, spec: ArraySpec, number: int) -> Path:
    """The file of the shard that holds revisions `number * CHUNK_ROWS` and on."""
    return (store / spec.path).joinpath("c", str(number), *("0" for _ in spec.shape[1:]))


def write_shard(store: Path, spec: ArraySpec, number: int, is_there: np.ndarray) -> None:
    """Write one shard from the log; rows that are not there become fill."""
    index, place = [], 0
    with atomic_writer(shard_path(store, spec, number), partial=beside(store, ".partial")) as file:
        for piece in _pieces(store, spec, number, is_there):
            data = b"" if is_fill(piece, spec) else compress(np.ascontiguousarray(piece))
            index.append((place, len(data)) if data else (_ABSENT, _ABSENT))
            place += file.write(data)
        file.write(np.array(index, dtype="<u8").tobytes())


def _pieces(store: Path, spec: ArraySpec, number: int, is_there: np.ndarray) -> Iterator[np.ndarray]:
    """The pieces of a shard in order, each [`CHUNK_ROWS`, numbers of a row], read from the log several at a time."""
    first = number * CHUNK_ROWS
    last = min(first + CHUNK_ROWS, spec.shape[0])
    spans = _spans(spec)
    width = max(1, math.prod(_geometry(spec)[0]))
    several = max(1, PASS_BYTES // (CHUNK_ROWS * width * np.dtype(spec.dtype).itemsize))
    for begin in range(0, len(spans), several):
        some = spans[begin : begin + several]
        columns = slice(some[0].start, some[-1].stop)
        held = read_columns(store, spec, (first, last), columns)
        held[~is_there[first:last]] = spec.fill
        for span in some:
            piece = np.full((CHUNK_ROWS, width), spec.fill, dtype=spec.dtype)
            piece[: last - first, : span.stop - span.start] = held[
                :, span.start - columns.start : span.stop - columns.start
            ]
            yield piece


def _spans(spec: ArraySpec) -> list[slice]:
    """The numbers of a row, laid flat, that each piece of a shard holds, in the shard's order."""
    piece, grid = _geometry(spec)
    split = max((axis for axis, count in enumerate(grid) if count > 1), default=0)
    inner = math.prod(spec.shape[2 + split :])
    length = spec.shape[1 + split]
    starts = range(0, length, piece[split])
    outer = range(math.prod(spec.shape[1 : 1 + split]))
    return [
        slice((block * length + start) * inner, (block * length + min(start + piece[split], length)) * inner)
        for block in outer
        for start in starts
    ]


def _geometry(spec: ArraySpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The number of places of each axis of a row in one piece, and the number of pieces along it.

    Whole from the last axis backwards while `PIECE_BYTES` hold them, then equal parts of one axis, then single places.
    """
    room = max(1, PIECE_BYTES // (CHUNK_ROWS * np.dtype(spec.dtype).itemsize))
    piece, grid = [], []
    for length in reversed(spec.shape[1:]):
        count = -(-length // max(1, room))
        piece.append(-(-length // count))
        grid.append(-(-length // piece[-1]))
        room = room // length if count == 1 else 0
    return tuple(reversed(piece)), tuple(reversed(grid))
