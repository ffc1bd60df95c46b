"""Token ids read from a NumPy file.

    >>> read_tokens(Path("tokens.npy")).shape  # doctest: +SKIP
    (60000,)

Only `.npy` files of integers with a header are read: one row of ids, or [rows, positions]. OLMo's own token files have
the same ending and no header. Their dtype does not follow from their bytes, so a user must convert them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmo_dynamics.errors import ProbeError

_MAGIC = b"\x93NUMPY"
_EXPECTED = "tokens must be a .npy file of token ids, integers in one row or in [rows, positions]"


def read_tokens(path: Path) -> NDArray[Any]:
    """The ids of a token file, [positions] or [rows, positions], memory-mapped in their stored dtype.

    Raises:
        ProbeError: the file is missing, has no NumPy header, or holds anything but integers in one or two axes.
    """
    array = _load(path)
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or array.size == 0:
        raise ProbeError(f"{_EXPECTED}; {path} holds {array.dtype} of shape {array.shape}")
    return array


def _load(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            headed = file.read(len(_MAGIC)) == _MAGIC
        if not headed:
            raise ProbeError(
                f"{_EXPECTED}; {path} has no NumPy header (OLMo's token files have none): convert it with "
                "np.save('headed.npy', np.fromfile(path, np.uint16)), or np.uint32 for a vocabulary above 65536"
            )
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ProbeError(f"cannot read the token file {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
        raise ProbeError(f"{_EXPECTED}; {path} is damaged: {' '.join(str(error).split())}") from error
    return loaded
