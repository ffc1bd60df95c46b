"""The Zarr v3 files that a store is made of, as documents and bytes.

Writing goes through these few functions rather than through zarr's own writer, because the order of the files is what
makes a revision atomic, and because a row costs a tenth of the time. Any Zarr v3 reader understands the result: regular
chunks of little-endian numbers or `vlen-utf8` text, or shards of them. In layout 3 (`is_checked`) every piece of bytes ends
with its CRC-32C, which any reader verifies; arrays along `revision` are shards whose inner chunks are single rows.

    >>> spec = ArraySpec("parameters/rms", ("revision", "tensor"), (0, 147), (64, 147), "float64", {})
    >>> array_document(spec)["fill_value"]
    'NaN'
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

from olmo_dynamics.errors import StoreMismatchError
from olmo_dynamics.files import Place
from olmo_dynamics.store.checksums import seal, unseal
from olmo_dynamics.store.layout import REVISION

TEXT = "string"
"""The data type of variable-length text, as Zarr spells it."""

DOCUMENT = "zarr.json"
"""The file that describes a node."""

CHECKED_LAYOUT = 3
"""The first layout version whose bytes have checksums."""

LAYOUT_VERSION = 3
"""The version of the arrangement of bytes in new stores.

It changes only when bytes are read differently: new groups, quantities and attributes leave it as it is.
"""

LAYOUT_VERSIONS = (2, LAYOUT_VERSION)
"""The versions that are read and continued."""

CHUNK_BYTES = 1 << 15  # 32 KiB
"""The size of a file that small rows share: an append rewrites it, a table over all revisions opens each."""

CHUNK_BYTES_2 = 1 << 17  # 128 KiB
"""The same in layout 2, where an append writes in place."""

CHUNK_ROWS = 512
"""The most revisions in a chunk of the log, and the number in a shard of the series."""

INDEX_BYTES = 16
"""Bytes per row in the index of a shard: where the row begins, and how long it is."""

CHECKSUM_BYTES = 4
CRC32C: dict[str, Any] = {"name": "crc32c"}
"""The codec that ends bytes with their checksum."""

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
    """One array: its path in the store, named dimensions, shape, chunk shape, Zarr data type and attributes.

    `is_checked` is True in layout 3, where bytes have checksums.
    """

    path: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, Any]
    is_checked: bool = False

    @property
    def grows(self) -> bool:
        """True if the array has one row per revision."""
        return self.dimensions[:1] == (REVISION,)

    @property
    def in_rows(self) -> bool:
        """True if each row has its own checksum, in a file that it may share with its neighbours."""
        return self.is_checked and self.grows

    @property
    def is_compressed(self) -> bool:
        """True if chunks are compressed: single rows of numbers, and text that is not kept by row."""
        if self.in_rows:
            return self.dtype != TEXT and self.chunks[0] == 1
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
    codecs = [to_bytes(spec.dtype), *([ZSTD] if spec.is_compressed else []), *([CRC32C] if spec.is_checked else [])]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.chunks)}},
        "chunk_key_encoding": {"name": "v2" if spec.is_checked else "default", "configuration": {"separator": "."}},
        "fill_value": fill_value(spec.dtype),
        "codecs": [sharding([1, *spec.chunks[1:]], codecs, "start")] if spec.in_rows else codecs,
        "attributes": dict(spec.attributes),
        "dimension_names": list(spec.dimensions),
    }


def of_layout(spec: ArraySpec, version: int) -> ArraySpec:
    """An array as a layout version arranges it."""
    is_checked = version >= CHECKED_LAYOUT
    if not spec.grows:
        return replace(spec, is_checked=is_checked)
    rows = rows_a_chunk(row_bytes(spec.shape[1:], spec.dtype), is_checked=is_checked)
    return replace(spec, chunks=(rows, *spec.chunks[1:]), is_checked=is_checked)


def sharding(piece: list[int], codecs: list[dict[str, Any]], index_location: str) -> dict[str, Any]:
    """The codec of shards whose inner chunks, and whose index, end with a checksum."""
    configuration = {
        "chunk_shape": piece,
        "codecs": codecs,
        "index_codecs": [to_bytes("uint64"), CRC32C],
        "index_location": index_location,
    }
    return {"name": "sharding_indexed", "configuration": configuration}


def to_bytes(dtype: str) -> dict[str, Any]:
    """The codec that turns values into bytes."""
    if dtype == TEXT:
        return {"name": "vlen-utf8", "configuration": {}}
    one_byte = dtype in ("uint8", "bool")  # which has no order
    return {"name": "bytes"} if one_byte else {"name": "bytes", "configuration": {"endian": "little"}}


def array_spec(path: str, document: Mapping[str, Any]) -> ArraySpec:
    """The array that a `zarr.json` describes; `chunks` are those of its log, in whichever form it is read."""
    shape, dtype = tuple(document["shape"]), document["data_type"]
    chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    is_checked = _is_checked(document)
    if is_series(document):
        chunks = (rows_a_chunk(row_bytes(shape[1:], dtype), is_checked=is_checked), *shape[1:])
    names, attributes = tuple(document["dimension_names"]), document["attributes"]
    return ArraySpec(path, names, shape, chunks, dtype, attributes, is_checked)


def is_series(document: Mapping[str, Any]) -> bool:
    """True if an array's `zarr.json` points at its series rather than at its log."""
    return bool(document["chunk_key_encoding"]["configuration"]["separator"] == "/")


def _is_checked(document: Mapping[str, Any]) -> bool:
    first = document["codecs"][0]
    codecs = first["configuration"]["index_codecs"] if first["name"] == "sharding_indexed" else document["codecs"]
    return any(codec["name"] == CRC32C["name"] for codec in codecs)


def row_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """The bytes of one revision's row, of text as much as is usual."""
    return math.prod(shape) * (16 if dtype == TEXT else np.dtype(dtype).itemsize)


def rows_a_chunk(nbytes: int, *, is_checked: bool) -> int:
    """The number of revisions per file: one where a row is large; a power of two within `CHUNK_BYTES` where it is small.

    Small rows share, since a table over 500 revisions would otherwise open 500 files per array.
    """
    in_file = nbytes + INDEX_BYTES + CHECKSUM_BYTES if is_checked else nbytes
    fitting = max(1, (CHUNK_BYTES if is_checked else CHUNK_BYTES_2) // in_file)
    return min(CHUNK_ROWS, 1 << (fitting.bit_length() - 1))


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A group's `zarr.json`."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_document(attributes: Mapping[str, Any], nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The store's own `zarr.json`: it repeats that of every node, so that one file changes the shapes of all arrays at once."""
    consolidated = {"kind": "inline", "must_understand": False, "metadata": dict(nodes)}
    return {**group_document(attributes), "consolidated_metadata": consolidated}


def read_json(path: Place) -> Any:
    """The contents of a JSON file; None where it is not there, or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def to_json(document: Mapping[str, Any]) -> bytes:
    """A document's bytes."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def chunk_path(array: Place, spec: ArraySpec, number: int) -> Place:
    """The file of the chunk that holds rows `number * chunks[0]` and on; a row is never split over chunks."""
    places = (str(number), *("0" for _ in spec.chunks[1:]))
    return array / ".".join(places if spec.is_checked else ("c", *places))


def is_fill(values: np.ndarray, spec: ArraySpec) -> bool:
    """True if these rows are all fill: a chunk of them needs no file in layout 2."""
    return bool((np.isnan(values) if values.dtype.kind == "f" else values == spec.fill).all())


def encode(chunk: np.ndarray, spec: ArraySpec) -> bytes:
    """The bytes of a whole chunk, of one row of a checked array, or of some rows of a chunk that is not compressed."""
    data = to_raw(chunk, spec.dtype)
    data = compress(data) if spec.is_compressed else data
    return seal(data) if spec.is_checked else data


def to_raw(values: np.ndarray, dtype: str) -> bytes:
    """The bytes of values, neither compressed nor checked."""
    if dtype == TEXT:
        return bytes(VLenUTF8().encode(values.astype(object).ravel()))
    return np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()


def decode(data: bytes, spec: ArraySpec) -> np.ndarray:
    """The rows in some bytes: all of a compressed chunk, else as many as were read.

    Raises:
        ValueError: the bytes are not whole rows.
    """
    held = unseal(data) if spec.is_checked else data
    return from_raw(decompress(held) if spec.is_compressed else held, spec)


def from_raw(data: bytes, spec: ArraySpec, rows: int | None = None) -> np.ndarray:
    """The rows in bytes that are neither compressed nor checked: as many as given, else those of a chunk, or of numbers any.

    Raises:
        ValueError: the bytes are not whole rows, or not as many.
    """
    if spec.dtype == TEXT:
        values = np.asarray(VLenUTF8().decode(data), dtype=object)
        return values.reshape(spec.chunks if rows is None else (rows, *spec.shape[1:]))
    numbers = np.frombuffer(data, dtype=np.dtype(spec.dtype).newbyteorder("<"))
    return numbers.reshape(-1 if rows is None else rows, *spec.shape[1:])


def compress(data: Any) -> bytes:
    """Compress bytes by `ZSTD`."""
    return bytes(_ZSTD.encode(data))


def decompress(data: bytes) -> bytes:
    """Undo `compress`.

    Raises:
        ValueError: the bytes are not a compressed whole.
    """
    try:
        return bytes(_ZSTD.decode(data))
    except RuntimeError as error:
        raise ValueError(str(error)) from None


def empty_rows(spec: ArraySpec, count: int) -> np.ndarray:
    """Rows of fill."""
    return np.full((count, *spec.shape[1:]), spec.fill, dtype=object if spec.dtype == TEXT else spec.dtype)
