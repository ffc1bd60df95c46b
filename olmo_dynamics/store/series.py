"""The series of an array: the log's numbers rearranged, so that one number over all revisions lies in one small piece.

A shard holds 512 revisions, in compressed pieces of all of them by a few features (sites, tensors, …): Zarr's sharding, so
any reader understands it. Shards lie beside the log's files in the same array under names of their own (`c/0/0` beside
`0.0`), and the array's `zarr.json` says which of the two is read. So the root's one rename turns all arrays to their
series, an append turns them back without moving a byte, and no file that somebody may be reading ever goes away.

In layout 3 every piece and the index end with a checksum. Before the index, where no reader of Zarr looks, a shard tells the
rows that it holds: one that is older than the array's `zarr.json`, as in a copy, is not read.

    >>> write_together([(shard_path(path, spec, 0), shard_bytes(path, spec, 0, is_there))], partial=partial)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from olmo_dynamics.files import Place, read_end
from olmo_dynamics.store.checksums import seal, unseal
from olmo_dynamics.store.log import read_columns
from olmo_dynamics.store.zarr_format import (
    CHECKSUM_BYTES,
    CHUNK_ROWS,
    CRC32C,
    INDEX_BYTES,
    TEXT,
    ZSTD,
    ArraySpec,
    array_document,
    compress,
    decompress,
    from_raw,
    is_fill,
    row_bytes,
    sharding,
    to_bytes,
    to_raw,
)

PIECE_BYTES = 1 << 18  # 256 KiB, before compression
PASS_BYTES = 1 << 27  # 128 MiB, held at a time while a shard is written
_ABSENT = 2**64 - 1  # in a shard's index: a piece that is all fill
_HELD_BYTES = CHUNK_ROWS // 8 + CHECKSUM_BYTES  # one bit per row


def has_series(spec: ArraySpec) -> bool:
    """True if an array gains by a series: its log is more than one file, or one piece per row."""
    if spec.is_checked:
        return True
    return spec.dtype != TEXT and len(spec.shape) > 1 and spec.chunks[0] < CHUNK_ROWS


def series_document(spec: ArraySpec) -> dict[str, Any]:
    """An array's `zarr.json` that points at its series."""
    piece, grid = _geometry(spec)
    shard = [CHUNK_ROWS, *(size * count for size, count in zip(piece, grid, strict=True))]
    codec = sharding([CHUNK_ROWS, *piece], [to_bytes(spec.dtype), ZSTD, CRC32C], "end")
    if not spec.is_checked:
        configuration = {"codecs": [to_bytes(spec.dtype), ZSTD], "index_codecs": [to_bytes("uint64")]}
        codec = {**codec, "configuration": {**codec["configuration"], **configuration}}
    return {
        **array_document(spec),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [codec],
    }


def shard_path(store: Place, spec: ArraySpec, number: int) -> Place:
    """The file of the shard that holds revisions `number * CHUNK_ROWS` and on."""
    return (store / spec.path).joinpath("c", str(number), *("0" for _ in spec.shape[1:]))


def shard_bytes(store: Place, spec: ArraySpec, number: int, is_there: np.ndarray) -> Iterator[bytes]:
    """The bytes of one shard, piece by piece, from the log; rows that are not there become fill.

    Raises:
        DamagedRowsError: rows that are there are damaged in the log.
    """
    index, place = [], 0
    for piece in _pieces(store, spec, number, is_there):
        if not spec.is_checked and is_fill(piece, spec):
            index.append((_ABSENT, _ABSENT))
            continue
        data = compress(to_raw(piece, spec.dtype))
        data = seal(data) if spec.is_checked else data
        index.append((place, len(data)))
        place += len(data)
        yield data
    table = np.array(index, dtype="<u8").tobytes()
    yield seal(_bits(is_there, number)) + seal(table) if spec.is_checked else table


def _bits(is_there: np.ndarray, number: int) -> bytes:
    held = np.zeros(CHUNK_ROWS, dtype=bool)
    mine = is_there[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS]
    held[: len(mine)] = mine
    return np.packbits(held).tobytes()


def is_current(store: Place, spec: ArraySpec, needed: np.ndarray) -> bool:
    """True if the shards of an array of layout 3 are there and hold all the rows that are needed."""
    for number in range(-(-len(needed) // CHUNK_ROWS)):
        try:
            held, _ = _tail(shard_path(store, spec, number), spec)
        except (OSError, ValueError):
            return False
        wanted = np.frombuffer(_bits(needed, number), dtype=np.uint8)
        if (wanted & ~np.frombuffer(held, dtype=np.uint8)).any():
            return False
    return True


def _tail(path: Place, spec: ArraySpec) -> tuple[bytes, np.ndarray]:
    """The rows that a shard holds, as bits, and its index.

    Raises:
        ValueError: either is damaged.
    """
    size = math.prod(_geometry(spec)[1]) * INDEX_BYTES + CHECKSUM_BYTES
    data = read_end(path, size + _HELD_BYTES)
    return unseal(data[:_HELD_BYTES]), np.frombuffer(unseal(data[_HELD_BYTES:]), dtype="<u8").reshape(-1, 2)


def check_shard(path: Place, spec: ArraySpec) -> str:
    """The first fault of a shard of layout 3, in words; empty if there is none."""
    try:
        _, index = _tail(path, spec)
        data = path.read_bytes()
        pieces = [data[start : start + length] for start, length in index.tolist()]
        if len(data) != sum(map(len, pieces)) + _HELD_BYTES + len(index) * INDEX_BYTES + CHECKSUM_BYTES:
            return "its file does not have the length of its pieces"
        for piece in pieces:
            from_raw(decompress(unseal(piece)), _of_pieces(spec), CHUNK_ROWS)
    except FileNotFoundError:
        return "its file is missing"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _of_pieces(spec: ArraySpec) -> ArraySpec:
    """The array, with the rows of one piece."""
    return replace(spec, shape=(CHUNK_ROWS, *_geometry(spec)[0]))


def _pieces(store: Place, spec: ArraySpec, number: int, is_there: np.ndarray) -> Iterator[np.ndarray]:
    """The pieces of a shard in order, each [`CHUNK_ROWS`, numbers of a row], read from the log several at a time."""
    mine = np.zeros(spec.shape[0], dtype=bool)
    mine[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS] = is_there[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS]
    place = int(mine.argmax()) % CHUNK_ROWS
    spans = _spans(spec)
    width = max(1, math.prod(_geometry(spec)[0]))
    several = max(1, PASS_BYTES // (CHUNK_ROWS * row_bytes((width,), spec.dtype)))
    for begin in range(0, len(spans), several):
        some = spans[begin : begin + several]
        first = some[0].start
        held = read_columns(store, spec, mine, slice(first, some[-1].stop))
        for span in some:
            piece = np.full((CHUNK_ROWS, width), spec.fill, dtype=held.dtype)
            columns = held[:, span.start - first : span.stop - first]
            piece[place : place + len(held), : span.stop - span.start] = columns
            yield piece


def _spans(spec: ArraySpec) -> list[slice]:
    """The numbers of a row, laid flat, that each piece of a shard holds, in the shard's order."""
    if len(spec.shape) == 1:
        return [slice(0, 1)]
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
    room = max(1, PIECE_BYTES // (CHUNK_ROWS * row_bytes((), spec.dtype)))
    piece, grid = [], []
    for length in reversed(spec.shape[1:]):
        count = -(-length // max(1, room))
        piece.append(-(-length // count))
        grid.append(-(-length // piece[-1]))
        room = room // length if count == 1 else 0
    return tuple(reversed(piece)), tuple(reversed(grid))
