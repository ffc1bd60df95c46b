"""Allow-lists of the names that pickles of weights may use, one per kind of pickle, with an inert replacement for each.

The lists are short on purpose, and each file is read with the shortest one that suffices. A tensor becomes the place of its
bytes, an array its parts, a path its text.

    >>> storage = read_storage(("storage", Symbol("torch.FloatStorage"), "0", "cpu", 6))
    >>> TENSORS["torch._utils._rebuild_tensor_v2"]((storage, 0, (2, 3), (3, 1), False, {})).shape
    (2, 3)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from olmo_dynamics.checkpoints.formats.unpickling import Allowed, Maker, PickledObject, Symbol
from olmo_dynamics.names import ITEM_BYTES

MAX_AXES = 64

_STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
    "torch.ComplexFloatStorage": "C64",
}  # fmt: skip
_UNTYPED = "torch.storage.UntypedStorage"
"""The storage of newer dtypes, whose length is in bytes; the tensor names its dtype."""

TORCH_DTYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.bool": "BOOL", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e8m0fnu": "F8_E8M0", "torch.float8_e4m3fnuz": "F8_E4M3FNUZ", "torch.float8_e5m2fnuz": "F8_E5M2FNUZ",
    "torch.uint16": "U16", "torch.uint32": "U32", "torch.uint64": "U64", "torch.complex64": "C64",
}  # fmt: skip
"""Safetensors' name for each of torch's dtypes."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of `count` elements, stored in the archive under `data/{key}`."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A view of a storage; `strides` and `offset` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Safetensors' name for the dtype."""
        return self.storage.dtype

    @property
    def extent(self) -> int:
        """Number of elements from the first to the last, both included."""
        return extent(self.shape, self.strides)

    @property
    def contiguous(self) -> bool:
        """True if the elements are adjacent, in row-major order."""
        return self.extent == math.prod(self.shape) and all(
            size < 2 or stride == math.prod(self.shape[axis + 1 :])
            for axis, (size, stride) in enumerate(zip(self.shape, self.strides, strict=True))
        )


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Number of elements from the first to the last of a strided block, both included; 0 for an empty block."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def read_storage(name: object) -> Storage:
    """The storage that a persistent id of `torch.save` names.

    Raises:
        ValueError: it is not such an id.
    """
    if not isinstance(name, tuple) or len(name) != 5 or name[0] != "storage":
        raise ValueError("a persistent id that is not a storage")
    _, kind, key, _, count = name
    if not isinstance(kind, Symbol) or kind.name not in (*_STORAGES, _UNTYPED):
        raise ValueError("a storage without a known dtype")
    if not isinstance(key, str) or not key.isdecimal() or not _is_count(count):
        raise ValueError("a storage without a number and a length")
    return Storage(_STORAGES.get(kind.name, "U8"), key, count)


def to_counts(values: object) -> tuple[int, ...]:
    """Sizes or strides, as a tuple of whole numbers of at least 0.

    Raises:
        ValueError: the values are not such numbers.
    """
    if not isinstance(values, tuple) or len(values) > MAX_AXES or not all(map(_is_count, values)):
        raise ValueError("sizes that are not whole numbers")
    return values


def _make_tensor(arguments: tuple[Any, ...]) -> PickledTensor:
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not _is_count(offset):
        raise ValueError("a tensor without a storage")
    tensor = PickledTensor(storage, offset, to_counts(shape), to_counts(strides))
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError("a tensor with fewer strides than axes")
    reach = max(
        tensor.offset + tensor.extent, math.prod(tensor.shape)
    )  # with strides of 0 a small storage gives a large tensor
    if reach > storage.count:
        raise ValueError(f"a tensor that takes {reach:,} elements of a storage of {storage.count:,}")
    return tensor


def _make_newer_tensor(arguments: tuple[Any, ...]) -> PickledTensor:
    """A tensor whose storage is untyped; it names its dtype itself."""
    storage, *_, dtype = arguments[:7] if len(arguments) > 6 else (None, None)
    if not isinstance(storage, Storage) or not isinstance(dtype, Symbol) or dtype.name not in TORCH_DTYPES:
        raise ValueError("a tensor without a known dtype")
    name = TORCH_DTYPES[dtype.name]
    count, rest = divmod(storage.count * ITEM_BYTES[storage.dtype], ITEM_BYTES[name])
    if rest:
        raise ValueError("a storage that ends within an element")
    return _make_tensor((Storage(name, storage.key, count), *arguments[1:4]))


def _make_parameter(arguments: tuple[Any, ...]) -> PickledTensor:
    if not arguments or not isinstance(arguments[0], PickledTensor):
        raise ValueError("a parameter without a tensor")
    return arguments[0]


def _make_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ValueError("an OrderedDict with arguments")
    return {}


def _make_size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    [sizes] = arguments
    return to_counts(sizes)


def _make_path(arguments: tuple[Any, ...]) -> str:
    if not all(isinstance(part, str) for part in arguments):
        raise ValueError("a path that is not text")
    return str(PurePosixPath(*arguments))


def _make_bytes(arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError("bytes that are not spelled as latin1")
    return text.encode("latin1")


def _recorder(kind: str) -> Maker:
    return lambda arguments: PickledObject(kind, arguments)


def _recorders(module: str, *names: str) -> dict[str, Maker]:
    return {f"{module}.{name}": _recorder(name) for name in names}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


PLAIN: Allowed = {"collections.OrderedDict": _make_dict}
"""Numbers, text and containers."""

TENSORS: Allowed = {
    **PLAIN,
    **dict.fromkeys((*_STORAGES, _UNTYPED, *TORCH_DTYPES)),
    "torch.Size": _make_size,
    "torch._utils._rebuild_tensor_v3": _make_newer_tensor,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_parameter": _make_parameter,
}
"""State dicts: tensors by name."""

_PATHS = {f"{module}.{name}": _make_path
          for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")}  # fmt: skip

_ARRAYS: Mapping[str, Maker | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _recorder("dtype"),
    "_codecs.encode": _make_bytes,
    **{f"numpy.{core}.multiarray.{name}": _recorder(name)
       for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
}  # fmt: skip

TRAINER: Allowed = {**TENSORS, **_PATHS, **_ARRAYS}
"""Trainers' counters and random states."""

_DCP = "torch.distributed.checkpoint"

METADATA: Allowed = {
    **PLAIN,
    **_PATHS,
    **dict.fromkeys(TORCH_DTYPES),
    "torch.Size": _make_size,
    **_recorders("torch.serialization", "_get_layout"),
    **_recorders(
        f"{_DCP}.metadata",
        "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING",
    ),
    **_recorders(f"{_DCP}.filesystem", "_StorageInfo"),
    **_recorders("olmo_core.distributed.checkpoint.filesystem", "_StorageInfo"),
}  # fmt: skip
"""The index of a distributed checkpoint."""

assert set(TORCH_DTYPES.values()) | set(_STORAGES.values()) <= ITEM_BYTES.keys()
