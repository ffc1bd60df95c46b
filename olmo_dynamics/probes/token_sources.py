"""Sources of tokens: a mapped local file, or a file on a web server of which only the requested bytes are read.

    >>> source = open_tokens("https://olmo-data.org/preprocessed/part-000-00000.npy", "uint32")     # doctest: +SKIP
    >>> source.size, source.read([(4096, 8192)])[0].shape                                           # doctest: +SKIP
    (1073741824, (4096,))

Files are headerless integers, as OLMo publishes them, whatever their suffix. Local ones may have a NumPy
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

from olmo_dynamics.checkpoints.http.web_directory import WebDirectory
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import OptionError, ProbeError

DTYPES = ("uint16", "uint32")
WEB = ("https://", "http://")
_MAGIC = b"\x93NUMPY"
_TELLING = 64  # tokens from which a wrong dtype can be told
_HASHED = 1 << 20  # 1 MiB at either end: enough to tell files apart without reading terabytes


def dtype_for(vocab_size: int) -> str:
    """The dtype in which the trainers store ids of this vocabulary: the narrower of uint16 and uint32 that fits."""
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
        """The dtype of the stored ids."""
        ...

    @property
    def size(self) -> int:
        """The number of tokens."""
        ...

    def read(self, spans: Sequence[tuple[int, int]]) -> list[Integer[np.ndarray, " tokens"]]:
        """The tokens of each span, from its first position up to its second."""
        ...


@dataclass(frozen=True)
class MappedTokens:
    """A local file."""

    name: str
    array: Integer[np.ndarray, " tokens"]

    @classmethod
    def open(cls, path: Path, dtype: np.dtype[np.generic]) -> MappedTokens:
        """Map the file; `dtype` is that of a file without a header.

        Raises:
            ProbeError: the file cannot be read, its size is not a multiple of the dtype's, or its header is not one of integers.
        """
        if not path.is_file():
            raise ProbeError(f"{path} is not a file of token ids: check the path")
        try:
            with path.open("rb") as file:
                headed = file.read(len(_MAGIC)) == _MAGIC
        except OSError as error:
            raise ProbeError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
        if headed:
            return cls(str(path), _headed(path))
        size = _whole(str(path), path.stat().st_size, dtype)
        return cls(str(path), np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype))

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of the stored ids."""
        return self.array.dtype

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.array.size

    def read(self, spans: Sequence[tuple[int, int]]) -> list[Integer[np.ndarray, " tokens"]]:
        """The tokens of spans."""
        return [self.array[start:stop] for start, stop in spans]


@dataclass(frozen=True)
class WebTokens:
    """A file on a web server that supports ranges; the spans of one call are fetched together, over several connections."""

    name: str
    dtype: np.dtype[np.generic]

    @cached_property
    def size(self) -> int:
        """The number of tokens; requested once.

        Raises:
            ProbeError: there is no such file, or its size is not a multiple of the dtype's.
        """
        if self._file not in self._directory.files:
            raise ProbeError(f"there is no file of token ids at {self.name}: check the address")
        return _whole(self.name, self._directory.files[self._file], self.dtype)

    def read(self, spans: Sequence[tuple[int, int]]) -> list[Integer[np.ndarray, " tokens"]]:
        """The tokens of spans.

        Raises:
            NetworkError: the connection keeps breaking off.
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
    """Open the token file of that path or address; of a web file only the size is requested.

    Raises:
        ProbeError: the file holds no tokens of that dtype.
        OptionError: the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise OptionError(f"the dtype of token files must be {' or '.join(DTYPES)} (got {dtype})")
    if str(name).startswith(WEB):
        source = WebTokens(str(name), np.dtype(dtype))
        _ = source.size  # a wrong address fails now
        return source
    return MappedTokens.open(Path(name).expanduser(), np.dtype(dtype))


def looks_too_narrow(ids: Integer[np.ndarray, " tokens"], dtype: np.dtype[np.generic]) -> bool:
    """True if ids read as uint16 alternate with 0 or 1, as those of a uint32 file do; too few ids tell nothing.

    >>> looks_too_narrow(np.arange(64, dtype=np.uint32).view(np.uint16), np.dtype("uint16"))
    True
    """
    pairs = ids[: ids.size // 2 * 2].reshape(-1, 2)
    return dtype.itemsize == 2 and ids.size >= _TELLING and bool(pairs[:, 1].max() <= 1 < len(np.unique(pairs[:, 0])))


def fingerprint(source: TokenSource) -> dict[str, str | int]:
    """The identity of a source: name, bytes, and the sha256 of its first and last MiB (all of it, if it is smaller).

    Of a web file, name and bytes alone: published data are thousands of files, and each would cost a request or two.
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
    """The ids of a file that `np.save` wrote, row after row, mapped."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, OverflowError) as error:
        raise ProbeError(f"{path} has a NumPy header but is damaged: {' '.join(str(error).split())}") from None
    if array.dtype.kind not in "iu" or not array.flags.c_contiguous:
        raise ProbeError(
            f"token ids must be integers in C order; {path} holds {array.dtype} of shape {array.shape}: save it again"
        )
    flat: np.ndarray = array.reshape(-1)
    return flat


def _whole(name: str, nbytes: int, dtype: np.dtype[np.generic]) -> int:
    """The number of ids in so many bytes."""
    if nbytes % dtype.itemsize:
        raise ProbeError(
            f"{name} has {nbytes} bytes, not a multiple of the {dtype.itemsize} of {dtype}: give the dtype that it was written in"
        )
    return nbytes // dtype.itemsize
