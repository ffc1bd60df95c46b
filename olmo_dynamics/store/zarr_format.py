"""The Zarr v3 files that a store is made of, as documents and bytes.

Writing goes through these few functions rather than through zarr's own writer, because the order of the files is what
makes a revision atomic, and because a row costs a tenth of the time. Any Zarr v3 reader understands the result: regular
chunks of little-endian numbers or `vlen-utf8` text; with zstd, but for numbers whose revisions share a chunk.

    >>> spec = ArraySpec("parameters/rms", ("revision", "tensor"), (0, 147), (64, 147), "float64", {})
    >>> array_document(spec)["fill_value"]
    'NaN'
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

from olmo_dynamics.errors import StoreMismatchError

TEXT = "string"
"""The data type of variable-length text, as Zarr spells it."""

DOCUMENT = "zarr.json"
"""The file that describes a node."""

CHUNK_BYTES = 1 << 17  # 128 KiB
CHUNK_ROWS = 512
"""The most revisions in a chunk of the log, and the number in a shard of the series."""

_LEVEL = -1  # noise stays as large as it is, repeats go, at the speed of a disk; level 3 is a third as fast for 10 %
_ZSTD = Zstd(level=_LEVEL)
ZSTD: dict[str, Any] = {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}}
"""The compressing codec."""

_FILLS: dict[str, Any] = {
    "float64": "NaN",
    "float32": "NaN",
    "int64": -1,
    "int16": -1,
    "uint8": 0,
    "bool": False,
    TEXT: "",
}


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array: its path in the store, named dimensions, shape, chunk shape, Zarr data type and attributes."""

    path: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, Any]

    @property
    def is_compressed(self) -> bool:
        """True if chunks are compressed: of text and of single rows; chunks that rows of numbers share are written in place."""
        return self.dtype == TEXT or self.chunks[0] == 1

    @property
    def fill(self) -> Any:
        """The value that an unwritten element reads as: NaN, -1, 0 or empty text."""
        fill = fill_value(self.dtype)
        return float("nan") if fill == "NaN" else fill


def data_type(values: np.ndarray) -> str:
    """The Zarr data type of an array in memory."""
    return TEXT if values.dtype.kind in "OTU" else values.dtype.name


def fill_value(dtype: str) -> Any:
    """The fill of a data type, as JSON has it.

    Raises:
        StoreMismatchError: a later version wrote the array, in a type that is unknown here.
    """
    if dtype not in _FILLS:
        raise StoreMismatchError(
            f"an array must hold one of {', '.join(_FILLS)} (got {dtype}, of a later version); write with that version"
        )
    return _FILLS[dtype]


def array_document(spec: ArraySpec) -> dict[str, Any]:
    """An array's `zarr.json`."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill_value(spec.dtype),
        "codecs": [to_bytes(spec.dtype), *([ZSTD] if spec.is_compressed else [])],
        "attributes": dict(spec.attributes),
        "dimension_names": list(spec.dimensions),
    }


def to_bytes(dtype: str) -> dict[str, Any]:
    """The codec that turns values into bytes."""
    if dtype == TEXT:
        return {"name": "vlen-utf8", "configuration": {}}
    one_byte = dtype in ("uint8", "bool")  # which has no order
    return {"name": "bytes"} if one_byte else {"name": "bytes", "configuration": {"endian": "little"}}


def array_spec(path: str, document: Mapping[str, Any]) -> ArraySpec:
    """The array that a `zarr.json` describes; `chunks` are those of its log, in whichever form it is read."""
    shape = tuple(document["shape"])
    chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    if is_series(document):
        chunks = (rows_a_chunk(math.prod(shape[1:]) * np.dtype(document["data_type"]).itemsize), *shape[1:])
    names, attributes = tuple(document["dimension_names"]), document["attributes"]
    return ArraySpec(path, names, shape, chunks, document["data_type"], attributes)


def is_series(document: Mapping[str, Any]) -> bool:
    """True if an array's `zarr.json` points at its series rather than at its log."""
    return bool(document["codecs"][0]["name"] == "sharding_indexed")


def rows_a_chunk(row_bytes: int) -> int:
    """The number of revisions per chunk: one where a row is large; a power of two within `CHUNK_BYTES` where it is small.

    Small rows share, since a table over 500 revisions would otherwise open 500 files per array.
    """
    fitting = max(1, CHUNK_BYTES // row_bytes)
    return min(CHUNK_ROWS, 1 << (fitting.bit_length() - 1))


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A group's `zarr.json`."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_document(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The store's own `zarr.json`: it repeats that of every node, so that one file changes the shapes of all arrays at once."""
    consolidated = {"kind": "inline", "must_understand": False, "metadata": dict(nodes)}
    return {**group_document(attributes), "consolidated_metadata": consolidated}


def to_json(document: Mapping[str, Any]) -> bytes:
    """A document's bytes."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def chunk_path(array: Path, spec: ArraySpec, number: int) -> Path:
    """The file of the chunk that holds rows `number * chunks[0]` and on; a row is never split over chunks."""
    return array / ".".join(("c", str(number), *("0" for _ in spec.chunks[1:])))


def is_fill(values: np.ndarray, spec: ArraySpec) -> bool:
    """True if these rows are all fill: a chunk of them needs no file."""
    return bool((np.isnan(values) if values.dtype.kind == "f" else values == spec.fill).all())


def encode(chunk: np.ndarray, spec: ArraySpec) -> bytes:
    """The bytes of a whole chunk, or of some rows of one that is not compressed."""
    if spec.dtype == TEXT:
        data = VLenUTF8().encode(chunk.astype(object).ravel())
    else:
        data = np.ascontiguousarray(chunk, dtype=np.dtype(spec.dtype).newbyteorder("<"))
    return compress(data) if spec.is_compressed else bytes(data.data)


def decode(data: bytes, spec: ArraySpec) -> np.ndarray:
    """The rows in some bytes: all of a compressed chunk, else as many as were read."""
    held = _ZSTD.decode(data) if spec.is_compressed else data
    if spec.dtype == TEXT:
        return np.asarray(VLenUTF8().decode(held), dtype=object).reshape(spec.chunks)
    return np.frombuffer(held, dtype=np.dtype(spec.dtype).newbyteorder("<")).reshape(-1, *spec.shape[1:])


def compress(data: Any) -> bytes:
    """Compress bytes by `ZSTD`."""
    return bytes(_ZSTD.encode(data))


def empty_rows(spec: ArraySpec, count: int) -> np.ndarray:
    """Rows of fill."""
    return np.full((count, *spec.shape[1:]), spec.fill, dtype=object if spec.dtype == TEXT else spec.dtype)
