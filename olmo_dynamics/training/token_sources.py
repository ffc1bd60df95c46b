"""Where tokens lie: a mapped file, or a file on a web server of which only the asked-for bytes move.

    >>> source = open_tokens("https://olmo-data.org/preprocessed/part-000-00000.npy", "uint32")     # doctest: +SKIP
    >>> source.size, source.read([(4096, 8192)])[0].shape                                           # doctest: +SKIP
    (1073741824, (4096,))

Files are headerless integers, end to end, as OLMo publishes them, whatever their name ends in. Local ones may have a NumPy
header, as `np.save` writes it; it then says their dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from olmo_dynamics.checkpoints.formats.web import WebDirectory
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import TrainingError

DTYPES = ("uint16", "uint32")
WEB = ("https://", "http://")
_MAGIC = b"\x93NUMPY"
_HASHED = 1 << 20  # 1 MiB at either end: enough to tell files apart without reading terabytes


def dtype_for(vocab_size: int) -> str:
    """What the trainers store ids of this vocabulary in: the narrowest of uint16 and uint32."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@runtime_checkable
class TokenSource(Protocol):
    """One file of token ids."""

    @property
    def name(self) -> str:
        """Its path or address."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """How ids are stored."""
        ...

    @property
    def size(self) -> int:
        """How many tokens."""
        ...

    def read(self, spans: Sequence[tuple[int, int]]) -> list[Integer[np.ndarray, " tokens"]]:
        """The tokens from the first place of each span up to its second."""
        ...


@dataclass(frozen=True)
class MappedTokens:
    """A local file."""

    name: str
    array: Integer[np.ndarray, " tokens"]

    @classmethod
    def open(cls, path: Path, dtype: np.dtype[np.generic]) -> MappedTokens:
        """Map it; `dtype` is that of a file without a header.

        Raises: TrainingError for a missing file, one of a broken size, and one whose header tells of anything but integers.
        """
        if not path.is_file():
            raise TrainingError(f"wanted a file of token ids, {path} is none; check the path")
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                return cls(str(path), _headed(path))
        size = _whole(str(path), path.stat().st_size, dtype)
        return cls(str(path), np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype))

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """How ids are stored."""
        return self.array.dtype

    @property
    def size(self) -> int:
        """How many tokens."""
        return self.array.size

    def read(self, spans: Sequence[tuple[int, int]]) -> list[Integer[np.ndarray, " tokens"]]:
        """The tokens of spans."""
        return [self.array[start:stop] for start, stop in spans]


@dataclass(frozen=True)
class WebTokens:
    """A file on a web server that answers ranges; the spans of one call are fetched together, over several connections."""

    name: str
    dtype: np.dtype[np.generic]

    @cached_property
    def size(self) -> int:
        """How many tokens; asked for once.

        Raises: TrainingError where nothing answers, or the size is broken.
        """
        if self._file not in self._directory.files:
            raise TrainingError(f"wanted a file of token ids, nothing answers at {self.name}; check the address")
        return _whole(self.name, self._directory.files[self._file], self.dtype)

    def read(self, spans: Sequence[tuple[int, int]]) -> list[Integer[np.ndarray, " tokens"]]:
        """The tokens of spans.

        Raises: NetworkError where the answer keeps breaking off.
        """
        width = self.dtype.itemsize
        raws = self._directory.read_spans([Span(self._file, start * width, stop * width) for start, stop in spans])
        return [raw.view(self.dtype) for raw in raws]

    @property
    def _file(self) -> str:
        return self.name.rpartition("/")[2]

    @cached_property
    def _directory(self) -> WebDirectory:
        return WebDirectory(self.name.rpartition("/")[0])


def open_tokens(name: str | Path, dtype: str) -> TokenSource:
    """The token file of that path or address; of a web file the size alone is asked for.

    Raises: TrainingError for a dtype that is none of theirs, and for what holds no tokens.
    """
    if dtype not in DTYPES:
        raise TrainingError(f"token files want a dtype of {' or '.join(DTYPES)}; got {dtype}")
    if str(name).startswith(WEB):
        source = WebTokens(str(name), np.dtype(dtype))
        _ = source.size  # a wrong address is said now
        return source
    return MappedTokens.open(Path(name).expanduser(), np.dtype(dtype))


def fingerprint(source: TokenSource) -> dict[str, str | int]:
    """By which a source is known again: name, bytes, and the sha256 of its first and last MiB (all of it, if it is smaller).

    Of a web file name and bytes alone: published data are thousands of files, and each would cost a request or two.
    """
    known: dict[str, str | int] = {
        "name": source.name.rpartition("/")[2],
        "bytes": source.size * source.dtype.itemsize,
    }
    if isinstance(source, WebTokens):
        return known
    edge = _HASHED // source.dtype.itemsize
    spans = [(0, min(edge, source.size)), (max(edge, source.size - edge), source.size)]
    digest = hashlib.sha256()
    for part in source.read([span for span in spans if span[0] < span[1]]):
        digest.update(part.tobytes())
    return {**known, "edges_sha256": digest.hexdigest()}


def _headed(path: Path) -> Integer[np.ndarray, " tokens"]:
    """The ids of a file that `np.save` wrote, row after row, not yet in memory."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, OverflowError) as error:
        raise TrainingError(f"{path} has a NumPy header and is damaged: {' '.join(str(error).split())}") from None
    if array.dtype.kind not in "iu" or not array.flags.c_contiguous:
        raise TrainingError(
            f"token ids are integers, row after row; {path} holds {array.dtype} of shape {array.shape}: save it anew"
        )
    return array.reshape(-1)


def _whole(name: str, nbytes: int, dtype: np.dtype[np.generic]) -> int:
    """How many ids so many bytes are."""
    if nbytes % dtype.itemsize:
        raise TrainingError(
            f"{name} has {nbytes} bytes, no multiple of the {dtype.itemsize} of {dtype}; check --data-dtype"
        )
    return nbytes // dtype.itemsize
