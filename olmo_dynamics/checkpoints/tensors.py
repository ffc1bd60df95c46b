"""Tensors of safetensors files: their headers and shard indices, read strictly.

Weights come from strangers, so nothing in a header is trusted: sizes are checked before anything is read, and a header that
contradicts itself or its file is refused with the file, the tensor, the expected value and the one found. Everything here
works with one callable that reads spans of files, so folders, memory and a hub share it.

    >>> text = b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    >>> parse_header("model.safetensors", 8 + len(text) + 8, text)[0].shape
    (2,)
"""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from olmo_dynamics.errors import CheckpointError, HeaderError, IndexFileError
from olmo_dynamics.names import ITEM_BYTES, TensorInfo

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

MAX_HEADER_BYTES = 100_000_000
"""Longest header accepted, the limit of the safetensors library; the largest published ones take about 100 kB."""

MAX_INDEX_BYTES = 64 << 20  # 64 MiB; the largest published index is about 1 MB

MAX_AXES = 64  # NumPy's limit

ITEM_BITS = {name: 8 * nbytes for name, nbytes in ITEM_BYTES.items()} | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits per element of every dtype that the safetensors format defines; elements of less than a byte are packed."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of the text that Git leaves in place of a file that Git LFS has not fetched."""

HEADER_GUESS = 1 << 16  # 64 KiB hold the length and the whole header of nearly every shard: one read instead of two


class Span(NamedTuple):
    """The bytes of `file` from `start` up to, not including, `stop`."""

    file: str
    start: int
    stop: int


SpanReader = Callable[[Sequence[Span]], Sequence[np.ndarray]]
"""Reads spans, in the order given, each as uint8 of length `stop - start`."""


def read_tensors(read: SpanReader, files: Mapping[str, int]) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint, in file order, checked against its header, its file's size and the shard index.

    `files` maps each file's name to its size in bytes.

    Raises:
        CheckpointError: there are no safetensors weights.
        HeaderError: a header contradicts itself or its file.
        IndexFileError: the index names a file or tensor that does not exist, or omits one that does.
    """
    homes = read_index(read, files) if _is_sharded(files) else None
    names = [single_file(files)] if homes is None else sorted(set(homes.values()))
    headers = read_headers(read, {name: files[name] for name in names})
    if homes is not None:
        _check_index(homes, headers)
    return {tensor.name: tensor for tensors in headers.values() for tensor in tensors}


def weight_files(read: SpanReader, files: Mapping[str, int]) -> list[str]:
    """The files that hold the weights, sorted by name; reads only the index."""
    if _is_sharded(files):
        return sorted(set(read_index(read, files).values()))
    return [single_file(files)]


def read_headers(read: SpanReader, sizes: Mapping[str, int]) -> dict[str, list[TensorInfo]]:
    """The tensors of each file, in the order of their bytes; at most two rounds of reads, whatever the number of files.

    Raises:
        HeaderError: a header is too long, cut off, not JSON, or contradicts itself or the size of its file.
    """
    for file, size in sizes.items():
        if size < 8:
            raise HeaderError(f"{file}: a safetensors file must have at least 8 bytes (got {size}); fetch it again")
    spans = [Span(file, 0, min(size, HEADER_GUESS)) for file, size in sizes.items()]
    heads = {span.file: bytes(raw) for span, raw in zip(spans, read(spans), strict=True)}
    for file, head in heads.items():
        refuse_pointer(file, head, HeaderError)
    ends = {file: 8 + header_length(file, size, heads[file]) for file, size in sizes.items()}
    rests = [Span(file, len(heads[file]), end) for file, end in ends.items() if end > len(heads[file])]
    for span, raw in zip(rests, read(rests), strict=True):
        heads[span.file] += bytes(raw)
    return {file: parse_header(file, size, heads[file][8 : ends[file]]) for file, size in sizes.items()}


def header_length(file: str, size: int, head: bytes) -> int:
    """Length of the JSON header in bytes, from the first 8 bytes of a file of `size` bytes, little-endian.

    Raises:
        HeaderError: the length is above `MAX_HEADER_BYTES`, or longer than the file.
    """
    length = int.from_bytes(head[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(
            f"{file}: a header must have at most {MAX_HEADER_BYTES} bytes (its length field says {length}); "
            "the file is damaged or is not safetensors"
        )
    if length > size - 8:
        raise HeaderError(
            f"{file}: its header should have {length} bytes, but only {size - 8} are left; the file is cut off, fetch it again"
        )
    return length


def parse_header(file: str, size: int, text: bytes) -> list[TensorInfo]:
    """The tensors that a header (its JSON alone) describes, in their order in a file of `size` bytes.

    Raises:
        HeaderError: it is not JSON, a field is invalid, or spans overlap, leave gaps or exceed the file.
    """
    entries = parse_object(text, file, HeaderError)
    notes = entries.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise HeaderError(f"{file}: __metadata__ must map text to text (got {_brief(notes)})")
    begin = 8 + len(text)
    tensors = [_parse_tensor(file, begin, name, entry) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    _check_cover(file, begin, size, tensors)
    return tensors


def read_index(read: SpanReader, files: Mapping[str, int]) -> dict[str, str]:
    """Tensor name to shard name, from `model.safetensors.index.json`.

    Raises:
        IndexFileError: it is too large, not JSON, or names a shard that is missing or outside the checkpoint.
    """
    size = files[INDEX_FILE]
    if size > MAX_INDEX_BYTES:
        raise IndexFileError(f"{INDEX_FILE}: an index must have at most {MAX_INDEX_BYTES} bytes (got {size})")
    [raw] = read([Span(INDEX_FILE, 0, size)])
    homes = parse_object(bytes(raw), INDEX_FILE, IndexFileError).get("weight_map")
    if not isinstance(homes, dict) or not homes:
        raise IndexFileError(f"{INDEX_FILE}: weight_map must map tensors to files (got {_brief(homes)})")
    for tensor, file in homes.items():
        _check_home(tensor, file, files)
    return homes


def single_file(files: Mapping[str, int]) -> str:
    """The one safetensors file of a checkpoint that has no index.

    Raises:
        CheckpointError: there is no safetensors file.
        IndexFileError: there are several, and no index tells which tensor is where.
    """
    found = sorted(name for name in files if name.endswith(".safetensors") and "/" not in name)
    if SINGLE_FILE in found:
        return SINGLE_FILE
    if len(found) > 1:
        raise IndexFileError(
            f"found {len(found)} safetensors files ({found[0]}, …) and no {INDEX_FILE} that tells which tensor is where"
        )
    if not found:
        raise CheckpointError(f"there must be {SINGLE_FILE} or {INDEX_FILE}; found {_some_names(files)}")
    return found[0]


def refuse_pointer(file: str, head: bytes, error: type[CheckpointError] = CheckpointError) -> None:
    """Refuse a file that begins as a Git LFS pointer does, given its first bytes.

    Raises:
        CheckpointError: it is a pointer; of the kind `error`.
    """
    if head.startswith(LFS_POINTER):
        raise error(
            f"{file} is a Git LFS pointer, which stands in place of the file itself; run `git lfs pull` in its repository"
        )


def parse_object(text: bytes, file: str, error: type[CheckpointError]) -> dict[str, Any]:
    """Parse the JSON object in `text`; anything else raises `error`, which names `file`."""
    refuse_pointer(file, text, error)
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as problem:
        raise error(f"{file} must be JSON (got {text[:40]!r}: {problem}); fetch the file again") from None
    if not isinstance(found, dict):
        raise error(f"{file} must be a JSON object (got {_brief(found)}); fetch the file again")
    return found


def _is_sharded(files: Mapping[str, int]) -> bool:
    return INDEX_FILE in files and SINGLE_FILE not in files  # with both, transformers too reads the single file


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, times)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {_brief(name)} appears {times} times")
    return found


def _parse_tensor(file: str, begin: int, name: str, entry: object) -> TensorInfo:
    where = f"{file}: tensor {_brief(name)}"
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise HeaderError(f"{where} has a name that is not Unicode text")
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise HeaderError(f"{where} must have dtype, shape and data_offsets (got {_brief(entry)})")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise HeaderError(f"{where} has dtype {_brief(dtype)}; known dtypes: {', '.join(ITEM_BITS)}")
    if not _are_counts(shape) or len(shape) > MAX_AXES:
        raise HeaderError(f"{where} must have a shape of at most {MAX_AXES} whole numbers (got {_brief(shape)})")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise HeaderError(f"{where} must have two whole numbers as data_offsets (got {_brief(offsets)})")
    bits, found = ITEM_BITS[dtype] * math.prod(shape), offsets[1] - offsets[0]
    if bits % 8:
        raise HeaderError(
            f"{where} of dtype {dtype} and shape {_brief(shape)} takes {bits} bits, which must fill whole bytes"
        )
    needed = bits // 8
    if needed != found:
        raise HeaderError(
            f"{where} of dtype {dtype} and shape {_brief(shape)} takes {needed} bytes, but its span has {found}"
        )
    return TensorInfo(name, dtype, tuple(shape), file, begin + offsets[0], begin + offsets[1])


def _are_counts(values: object) -> bool:
    # bool is a kind of int in Python, but JSON's `true` is not a size
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_cover(file: str, begin: int, size: int, tensors: Iterable[TensorInfo]) -> None:
    for tensor in tensors:
        if tensor.start != begin:
            what = "overlaps the tensor before it" if tensor.start < begin else "leaves a gap before it"
            raise HeaderError(
                f"{file}: tensor {_brief(tensor.name)} {what}: it must start at byte {begin} (got {tensor.start})"
            )
        begin = tensor.stop
    if begin != size:
        what = "it is cut off, fetch it again" if begin > size else "the rest belongs to no tensor"
        raise HeaderError(f"{file}: its tensors end at byte {begin}, but the file has {size} bytes; {what}")


def _check_home(tensor: str, file: object, files: Mapping[str, int]) -> None:
    where = f"{INDEX_FILE}: tensor {_brief(tensor)} should be in {_brief(file)}"
    if not isinstance(file, str):
        raise IndexFileError(f"{where}, which is not a file name")
    if file.startswith("/") or ".." in PurePosixPath(file).parts or "\\" in file or ":" in file:
        raise IndexFileError(f"{where}, which lies outside the checkpoint")
    if file not in files:
        raise IndexFileError(f"{where}, which is missing; found {_some_names(files)}")


def _check_index(homes: Mapping[str, str], headers: Mapping[str, Iterable[TensorInfo]]) -> None:
    there = {(tensor.name, file) for file, tensors in headers.items() for tensor in tensors}
    for tensor, file in homes.items():
        if (tensor, file) not in there:
            raise IndexFileError(
                f"{INDEX_FILE} places tensor {_brief(tensor)} in {file}, whose header does not hold it"
            )
    for tensor, file in sorted(there):
        if homes.get(tensor) != file:
            raise IndexFileError(f"{file} holds tensor {_brief(tensor)}, which {INDEX_FILE} does not place there")


def _some_names(files: Iterable[str]) -> str:
    names = sorted(files)
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "nothing"


def _brief(value: object) -> str:
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()  # bounds the work and the length, however large the value
_SHORT.maxstring = 120
