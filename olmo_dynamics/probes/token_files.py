"""Token ids read from files, the same files that `fork --data` reads.

    >>> read_tokens(Path("tokens.npy"), dtype="uint32").shape  # doctest: +SKIP
    (60000,)

A `.npy` file with a header holds one row of integers, or [rows, positions]. A file without one holds bare ids, as OLMo
publishes them, on this machine or at an http address; their dtype does not follow from their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmo_dynamics.errors import ProbeError
from olmo_dynamics.probes.documents import SUFFIXES
from olmo_dynamics.probes.token_sources import WEB, looks_too_narrow, open_tokens

MOST_TOKENS = 1 << 24
"""The most tokens of a file that are read where no batch says how many; every one of them is kept for each layer."""

_MAGIC = b"\x93NUMPY"
_EXPECTED = "tokens must be a .npy file of token ids, integers in one row or in [rows, positions]"


def read_tokens(name: str | Path, *, dtype: str, most: float = math.inf) -> NDArray[Any]:
    """The ids of a file or address, [positions] or [rows, positions]; at most the first `most` of a file without a header.

    Args:
        name: a path, or an http address.
        dtype: of the ids in a file without a header.
        most: the number of ids needed.

    Raises:
        ProbeError: the file is missing or holds anything but token ids, or it is large and `most` is infinite.
    """
    if str(name).endswith(SUFFIXES):
        raise ProbeError(f"{name} is a text file; give it with --text, or give token ids")
    on_web = str(name).startswith(WEB)
    array = _load(Path(name)) if not on_web and _is_headed(Path(name)) else _bare(name, dtype, most)
    if most == math.inf and array.size > MOST_TOKENS:
        raise ProbeError(
            f"{name} holds {array.size:,} tokens; take a part of them with --batch BxT, such as 64x512 (at most "
            f"{MOST_TOKENS:,} are read without)"
        )
    return array


def domain_names(names: Sequence[str | Path]) -> list[str]:
    """A name for each file: its own without `.npy`, with as many of its folders as tell it from the others.

    >>> domain_names(["wiki/part-0.npy", "code/part-0.npy"])
    ['wiki/part-0', 'code/part-0']

    Raises:
        ProbeError: a file is given twice.
    """
    paths = [PurePosixPath(str(name).removesuffix(".npy")).parts for name in names]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        shortened = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(shortened)) == len(shortened):
            return shortened
    twice = next(name for place, name in enumerate(names) if name in names[:place])
    raise ProbeError(f"each token file must be given once (got {twice} twice)")


def _bare(name: str | Path, dtype: str, most: float) -> NDArray[Any]:
    """Ids without a header."""
    source = open_tokens(name, dtype)
    size = min(source.size, MOST_TOKENS + 1 if most == math.inf else int(most))
    if size == 0:
        raise ProbeError(f"{name} is empty; give a file of token ids")
    [ids] = source.read([(0, size)])
    if looks_too_narrow(ids, source.dtype):
        raise ProbeError(
            f"{name}: every other id is 0 or 1, as in a file of uint32 read as uint16: give --tokens-dtype uint32"
        )
    return ids


def _is_headed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise ProbeError(f"cannot read the token file {path}: {error.strerror or error}") from error


def _load(path: Path) -> NDArray[Any]:
    """The array of a file with a header, memory-mapped in its stored dtype."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ProbeError(f"cannot read the token file {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise ProbeError(f"{_EXPECTED}; {path} is damaged: {' '.join(str(error).split())}") from error
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or array.size == 0:
        raise ProbeError(f"{_EXPECTED}; {path} holds {array.dtype} of shape {array.shape}")
    return array
