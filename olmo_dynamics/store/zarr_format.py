"""The Zarr v3 files that a store is made of, as documents and bytes.

Writing goes through these few functions rather than through zarr's own writer, because the order of the files is what
makes a revision atomic, and because a row costs a tenth of the time. Reading goes through zarr, and any Zarr v3 reader
understands the result: regular chunks, little-endian bytes or `vlen-utf8` text, zstd.

    >>> spec = ArraySpec("parameters/rms", ("revision", "tensor"), (0, 147), (64, 147), "float64", {})
    >>> array_document(spec)["fill_value"]
    'NaN'
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

TEXT = "string"
"""The data type of variable-length text, as Zarr spells it."""

DOCUMENT = "zarr.json"
"""The file that describes a node."""

_LEVEL = 0  # zstd's own default
_ZSTD = Zstd(level=_LEVEL)
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
    def fill(self) -> Any:
        """What an unwritten element reads as: NaN, -1, 0 or empty text."""
        return float("nan") if _FILLS[self.dtype] == "NaN" else _FILLS[self.dtype]


def data_type(values: np.ndarray) -> str:
    """The Zarr data type of an array in memory."""
    return TEXT if values.dtype.kind in "OTU" else values.dtype.name


def array_document(spec: ArraySpec) -> dict[str, Any]:
    """An array's `zarr.json`."""
    to_bytes: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if spec.dtype in ("uint8", "bool"):
        to_bytes = {"name": "bytes"}  # one byte has no order
    elif spec.dtype == TEXT:
        to_bytes = {"name": "vlen-utf8", "configuration": {}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _FILLS[spec.dtype],
        "codecs": [to_bytes, {"name": "zstd", "configuration": {"level": _LEVEL, "checksum": False}}],
        "attributes": dict(spec.attributes),
        "dimension_names": list(spec.dimensions),
    }


def array_spec(path: str, document: Mapping[str, Any]) -> ArraySpec:
    """The array that a `zarr.json` of ours describes."""
    return ArraySpec(
        path,
        tuple(document["dimension_names"]),
        tuple(document["shape"]),
        tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
        document["data_type"],
        document["attributes"],
    )


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A group's `zarr.json`."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_document(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The store's own `zarr.json`: it repeats every node's, so that one file changes the shape of all arrays at once."""
    consolidated = {"kind": "inline", "must_understand": False, "metadata": dict(nodes)}
    return {**group_document(attributes), "consolidated_metadata": consolidated}


def to_json(document: Mapping[str, Any]) -> bytes:
    """A document's bytes."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def chunk_path(array: Path, spec: ArraySpec, number: int) -> Path:
    """The file of the chunk that holds rows `number * chunks[0]` and on; a row is never split over chunks."""
    return array.joinpath("c", str(number), *("0" for _ in spec.chunks[1:]))


def encode(chunk: np.ndarray, spec: ArraySpec) -> bytes | None:
    """A whole chunk's bytes, or None where all is fill: such a chunk has no file."""
    if spec.dtype == TEXT:
        return bytes(_ZSTD.encode(VLenUTF8().encode(chunk.astype(object).ravel()))) if (chunk != "").any() else None
    is_fill = np.isnan(chunk) if chunk.dtype.kind == "f" else chunk == spec.fill
    if is_fill.all():
        return None
    return bytes(_ZSTD.encode(np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<"))))


def decode(data: bytes, spec: ArraySpec) -> np.ndarray:
    """A whole chunk from its bytes, writable."""
    if spec.dtype == TEXT:
        values: np.ndarray = VLenUTF8().decode(_ZSTD.decode(data))
    else:
        values = np.frombuffer(_ZSTD.decode(data), dtype=np.dtype(spec.dtype).newbyteorder("<"))
    return values.reshape(spec.chunks).astype(object if spec.dtype == TEXT else spec.dtype)


def empty_chunk(spec: ArraySpec) -> np.ndarray:
    """A whole chunk of fill."""
    return np.full(spec.chunks, spec.fill, dtype=object if spec.dtype == TEXT else spec.dtype)
