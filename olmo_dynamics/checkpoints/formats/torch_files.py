"""Files of `torch.save`, read without torch: the pickle for the structure, byte spans for the tensors.

A file is an archive of one pickle (`data.pkl`) and one member per storage. A tensor is kept as the place of its bytes, so a
checkpoint of any size is opened by reading its directory and its pickle.

    >>> opened = open_torch_file(read, "model.pt", 933608, TENSORS)                             # doctest: +SKIP
    >>> opened.place(opened.value["transformer.wte.weight"])                                    # doctest: +SKIP
    Span(file='model.pt', start=6784, stop=137856)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo_dynamics.checkpoints.formats.archive import read_members
from olmo_dynamics.checkpoints.formats.pickle_allowlist import PickledTensor, read_storage
from olmo_dynamics.checkpoints.formats.unpickling import Allowed, PickledObject, read_pickle
from olmo_dynamics.checkpoints.tensors import Span, SpanReader
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import ITEM_BYTES

MAX_PICKLE_BYTES = 64 << 20  # 64 MiB; the largest published model's takes less than 1 MiB
MAX_DEPTH = 200

NUMPY_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip
"""NumPy's name for each dtype that NumPy has."""


@dataclass(frozen=True)
class TorchFile:
    """An opened file: `value` is the saved object, with `PickledTensor`s in it; `members` are its parts."""

    file: str
    value: Any
    members: Mapping[str, Span]
    read: SpanReader

    def place(self, tensor: PickledTensor) -> Span:
        """The span from the tensor's first element to its last.

        Raises:
            CheckpointError: its storage is missing, or its size is not that in the pickle.
        """
        item = ITEM_BYTES[tensor.dtype]
        key, count = tensor.storage.key, tensor.storage.count
        home = self.members.get(f"data/{key}")
        if home is None or home.stop - home.start != count * item:
            found = f"{home.stop - home.start} bytes" if home else "nothing"
            raise CheckpointError(
                f"{self.file}: storage {key} must have {count * item} bytes (found {found}); fetch it again"
            )
        start = home.start + tensor.offset * item
        return Span(self.file, start, start + tensor.extent * item)

    def plain(self) -> Any:
        """The value with tensors and arrays as NumPy arrays: for small files such as a trainer's state.

        Raises:
            CheckpointError: it holds itself, or something that is neither number, text, container nor array.
        """
        return _Plain(self).convert(self.value, 0)


def open_torch_file(read: SpanReader, file: str, size: int, allowed: Allowed) -> TorchFile:
    """Open a file of `torch.save`; reads the archive's directory and its pickle.

    Raises:
        CheckpointError: it is not such an archive, or its pickle is hostile or damaged.
    """
    members = read_members(read, file, size)
    pickled = members.get("data.pkl")
    if pickled is None or pickled.stop - pickled.start > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{file} must hold a data.pkl of at most {MAX_PICKLE_BYTES} bytes; fetch the file again")
    order = members.get("byteorder", Span(file, 0, 0))
    raw, byteorder = read([pickled, Span(file, order.start, min(order.stop, order.start + 6))])
    if byteorder.tobytes() not in (b"", b"little"):
        raise CheckpointError(f"{file} must hold little-endian numbers (its byteorder is {byteorder.tobytes()!r})")
    value = read_pickle(raw.tobytes(), file=file, allowed=allowed, persistent=read_storage)
    return TorchFile(file, value, members, read)


def open_torch_bytes(raw: np.ndarray, label: str, allowed: Allowed) -> TorchFile:
    """Open a file of `torch.save` from its bytes (uint8); `label` is for messages."""
    return open_torch_file(lambda spans: [raw[span.start : span.stop] for span in spans], label, raw.nbytes, allowed)


class _Plain:
    """Convert a pickle's values into plain ones; a shared value is converted once, one that holds itself is refused."""

    def __init__(self, file: TorchFile) -> None:
        self._file = file
        self._done: dict[int, Any] = {}

    def convert(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, str | int | float | bytes):
            return value
        if depth > MAX_DEPTH:
            raise self._refusal("holds itself, or is nested too deeply")
        if id(value) not in self._done:
            self._done[id(value)] = self._convert(value, depth + 1)
        return self._done[id(value)]

    def _convert(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {self.convert(key, depth): self.convert(item, depth) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.convert(item, depth) for item in value)
        if isinstance(value, PickledTensor):
            return self._tensor(value)
        if isinstance(value, PickledObject) and value.kind in ("_reconstruct", "scalar"):
            return self._array(value)
        raise self._refusal(f"holds a {getattr(value, 'kind', type(value).__name__)}")

    def _tensor(self, tensor: PickledTensor) -> np.ndarray:
        if tensor.dtype not in NUMPY_DTYPES or not tensor.contiguous:
            raise self._refusal(f"holds a tensor of dtype {tensor.dtype} that NumPy cannot view")
        [raw] = self._file.read([self._file.place(tensor)])
        return np.frombuffer(raw.tobytes(), NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape)

    def _array(self, record: PickledObject) -> Any:
        try:
            if record.kind == "scalar":
                dtype, data = record.arguments
                return np.frombuffer(data, _to_dtype(dtype))[0].item()
            _, shape, dtype, by_columns, data = record.state
            return np.frombuffer(data, _to_dtype(dtype)).reshape(shape, order="F" if by_columns else "C")
        except (ValueError, TypeError, IndexError, AttributeError):
            raise self._refusal("holds a damaged array") from None

    def _refusal(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self._file.file} must hold only numbers, text, containers and arrays, but it {problem}"
        )


def _to_dtype(record: PickledObject) -> np.dtype:
    letters, order = str(record.arguments[0]), str(record.state[1])
    if letters[:1] not in "fiub" or order not in "<|":
        raise ValueError(letters)
    return np.dtype(order.replace("|", "") + letters)
