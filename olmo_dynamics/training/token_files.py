"""Token files as OLMo publishes them: headerless integers, end to end, whatever their name ends in.

Each file is cut into instances of `length` tokens by itself and its tail dropped; nothing joins two files. Files are mapped,
so that only the instances asked for are read.

    >>> files = TokenFiles.open([Path("part-0.npy"), Path("part-1.npy")], length=4096, dtype="uint32")  # doctest: +SKIP
    >>> files.read([0, 17]).shape                                                                    # doctest: +SKIP
    (2, 4096)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from olmo_dynamics.errors import TrainingError

DTYPES = ("uint16", "uint32")


def dtype_for(vocab_size: int) -> str:
    """What the trainers store ids of this vocabulary in: the narrowest of uint16 and uint32."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class TokenFiles:
    """Instances of `length` tokens, numbered over all files in the order given; a path given twice is read twice."""

    paths: tuple[Path, ...]
    arrays: tuple[Integer[np.ndarray, " _"], ...]
    counts: tuple[int, ...]  # instances of each file
    length: int

    @classmethod
    def open(cls, paths: Sequence[str | Path], *, length: int, dtype: str, unit: int | None = None) -> TokenFiles:
        """Map the files; `unit` is OLMo-core's max_target_sequence_length, by which files are cut before `length` is.

        Raises: TrainingError for a missing file, one with a NumPy header, one of a broken size, and for no instance at all.
        """
        unit = unit or length
        if dtype not in DTYPES or unit % length:
            raise TrainingError(
                f"token files want a dtype of {' or '.join(DTYPES)} and a target length that {length} divides; "
                f"got {dtype} and {unit}"
            )
        files = tuple(Path(path).expanduser() for path in paths)
        arrays = tuple(_map(path, np.dtype(dtype)) for path in files)
        found = cls(files, arrays, tuple(array.size // unit * (unit // length) for array in arrays), length)
        if not found.count:
            raise TrainingError(
                f"training wants at least one instance of {unit} tokens; the {len(files)} files hold "
                f"{sum(array.size for array in arrays)}: give more data or a shorter length"
            )
        return found

    @property
    def count(self) -> int:
        """Instances of all files."""
        return sum(self.counts)

    @property
    def token_count(self) -> int:
        """Tokens of all files, tails among them."""
        return sum(array.size for array in self.arrays)

    def read(self, instances: Sequence[int] | Integer[np.ndarray, " chosen"]) -> Int64[np.ndarray, "chosen length"]:
        """The tokens of these instances, in the order asked."""
        ends = np.cumsum(self.counts)
        rows = []
        for instance in np.asarray(instances, np.int64):
            file = int(np.searchsorted(ends, instance, side="right"))
            start = (instance - (ends[file] - self.counts[file])) * self.length
            rows.append(self.arrays[file][start : start + self.length])
        return np.stack(rows).astype(np.int64)


def _map(path: Path, dtype: np.dtype[np.generic]) -> Integer[np.ndarray, " tokens"]:
    if not path.is_file():
        raise TrainingError(f"wanted a file of token ids, {path} is none; check the path")
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise TrainingError(
                f"{path} begins with a NumPy header; token files hold bare {dtype} ids: write it with array.tofile"
            )
    if size % dtype.itemsize:
        raise TrainingError(
            f"{path} has {size} bytes, no multiple of the {dtype.itemsize} of {dtype}; check --data-dtype"
        )
    return np.memmap(path, dtype, mode="r") if size else np.empty(0, dtype)
