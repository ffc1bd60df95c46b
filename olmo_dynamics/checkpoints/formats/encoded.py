"""Safetensors files of Ai2's first trainer, whose keys are pickles in base64.

A key is the url-safe base64 of a pickled `(path, value_is_pickled)`: the path through nested dicts, and a flag that is true if
the tensor's bytes are themselves a pickle (of a number or a list). Both are read with the shortest allow-list.

    >>> import base64, pickle
    >>> decode_key(base64.urlsafe_b64encode(pickle.dumps((("state", 0, "exp_avg"), False))).decode(), "optim.safetensors")
    (('state', 0, 'exp_avg'), False)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from olmo_dynamics.checkpoints.formats.pickle_allowlist import PLAIN
from olmo_dynamics.checkpoints.formats.plain_names import stored_info
from olmo_dynamics.checkpoints.formats.tensor_views import Stored
from olmo_dynamics.checkpoints.formats.unpickling import brief, read_pickle
from olmo_dynamics.checkpoints.tensors import Span, SpanReader, read_headers
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import TensorInfo

MAX_VALUE_BYTES = 64 << 20  # 64 MiB; parameter groups take a few kB


def read_encoded(read: SpanReader, file: str, files: Mapping[str, int]) -> dict[tuple[Any, ...], Any]:
    """Read such a file: `Stored` tensors and plain values, by path.

    Raises:
        CheckpointError: a header or a key is damaged or hostile.
    """
    infos = read_headers(read, {file: files[file]})[file]
    keys = [decode_key(info.name, file) for info in infos]
    pickled = [info for info, (_, is_pickled) in zip(infos, keys, strict=True) if is_pickled]
    values = iter(_read_values(read, pickled))
    return {
        path: next(values) if is_pickled else _store(info, path)
        for info, (path, is_pickled) in zip(infos, keys, strict=True)
    }


def decode_key(key: str, file: str) -> tuple[tuple[Any, ...], bool]:
    """Decode a key into its path, and the flag that is true if the value is a pickle.

    Raises:
        CheckpointError: it is not such a key, or a hostile one.
    """
    try:
        raw = base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise CheckpointError(f"{file}: key {brief(key)} is not base64, as the trainer writes it") from None
    found = read_pickle(raw, file=f"{file}, key {key[:24]}…", allowed=PLAIN)
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], tuple) or type(found[1]) is not bool:
        raise CheckpointError(f"{file}: key {brief(key)} does not encode a path; fetch the file again")
    path, is_pickled = found
    if not path or not all(isinstance(word, str | int) for word in path):
        raise CheckpointError(f"{file}: key {brief(key)} does not encode a path; fetch the file again")
    return path, is_pickled


def _read_values(read: SpanReader, infos: list[TensorInfo]) -> list[Any]:
    for info in infos:
        if info.dtype != "U8" or info.nbytes > MAX_VALUE_BYTES:
            raise CheckpointError(f"{info.file}: a pickled value must be at most {MAX_VALUE_BYTES} bytes of U8")
    raws = read([Span(info.file, info.start, info.stop) for info in infos])
    return [read_pickle(raw.tobytes(), file=info.file, allowed=PLAIN) for info, raw in zip(infos, raws, strict=True)]


def _store(info: TensorInfo, path: tuple[Any, ...]) -> Stored:
    return replace(stored_info(info), name=".".join(map(str, path)))
