"""Counts read from a file: an .npz of counts, or a file of token ids, which are counted.

>>> CountsFile("train.npy").read(known=300, columns=320).unigram.shape  # doctest: +SKIP
(300,)

An .npz holds `unigram` [V], the count of each token id, `pair` [M, 2], pairs of ids that follow each other, and `count` [M],
how often each does. Shapes and sizes are checked before memory is taken, and nothing is unpickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from olmo_dynamics.errors import OptionError
from olmo_dynamics.probes.counting.token_counts import TokenCounts
from olmo_dynamics.probes.documents import SUFFIXES
from olmo_dynamics.probes.token_files import read_tokens
from olmo_dynamics.probes.token_sources import dtype_for

MOST_TOKENS = 1 << 28
"""The most tokens of a file that are counted."""

MOST_PAIRS = 1 << 26
"""The most pairs of an .npz of counts."""

_DIMENSIONS = {"unigram": 1, "pair": 2, "count": 1}
_MOST_COUNTED = 1 << 62  # so that sums do not overflow


@dataclass(frozen=True, eq=False)
class CountsFile:
    """A file to count, or of counts; read once, when it is first needed. Copies share what was read.

    Attributes:
        path: the file, or the http address of a file of token ids.
        tokens_dtype: the dtype of token ids without a header; None for that of the trainers.
    """

    path: str | Path
    tokens_dtype: str | None = None
    _read: dict[tuple[int, int], TokenCounts] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path):
            raise OptionError(f"counts must be the path of a file (got {self.path!r})")
        if str(self.path).endswith(SUFFIXES):
            raise OptionError(
                f"--counts must be FILE.npz or a file of token ids (got the text {self.path}); tokenize it"
            )

    def __deepcopy__(self, _: object) -> CountsFile:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return str(self.path).rpartition("/")[2]

    def read(self, known: int, columns: int) -> TokenCounts:
        """The counts of a tokenizer's `known` ids, for a model whose vocabulary has `columns`, padding included.

        Raises:
            OptionError: the file cannot be read, is too large, or is of another vocabulary.
            ProbeError: a file of token ids cannot be read.
        """
        with self._lock:
            if (known, columns) not in self._read:
                self._read.clear()
                found = self._of_npz if str(self.path).endswith(".npz") else self._of_tokens
                self._read[known, columns] = found(known, columns)
            return self._read[known, columns]

    def _of_tokens(self, known: int, columns: int) -> TokenCounts:
        ids = read_tokens(self.path, dtype=self.tokens_dtype or dtype_for(columns), most=MOST_TOKENS + 1)
        if ids.size > MOST_TOKENS:
            raise OptionError(
                f"--counts must be a file of at most {MOST_TOKENS:,} token ids (got {self.path} with more); count them apart, "
                "and give an .npz"
            )
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= known:
            outside = lowest if lowest < 0 else highest
            raise OptionError(
                f"--counts must hold token ids of the model's vocabulary, 0 to {known - 1} (got {outside} in {self.path}); "
                "give a file of the run's own tokenizer"
            )
        return self._checked(TokenCounts.of_ids(ids, known))

    def _of_npz(self, known: int, columns: int) -> TokenCounts:
        arrays = self._arrays(known, columns)
        unigram, pair, count = (arrays[name] for name in _DIMENSIONS)
        highest = max(int(unigram.nonzero()[0].max(initial=-1)), int(pair.max(initial=-1)))
        if min(int(each.min(initial=0)) for each in arrays.values()) < 0:
            raise OptionError(f"--counts must hold no number below 0 (got one in {self.path}); count again")
        if highest >= known:
            raise OptionError(
                f"--counts must hold token ids of the model's vocabulary, 0 to {known - 1} (got {highest} in {self.path}); "
                "give counts of the run's own tokenizer"
            )
        if max(float(unigram.sum(dtype=float)), float(count.sum(dtype=float))) >= _MOST_COUNTED:
            raise OptionError(f"--counts must sum to less than 2**62 (got more in {self.path}); scale them down")
        return self._checked(TokenCounts.of_pairs(unigram[:known], pair, count))

    def _checked(self, counts: TokenCounts) -> TokenCounts:
        if not len(counts.keys) or not counts.tokens:
            raise OptionError(f"--counts must count at least one token and one pair (got none in {self.path})")
        return counts

    def _arrays(self, known: int, columns: int) -> Mapping[str, NDArray[np.int64]]:
        try:
            with zipfile.ZipFile(Path(self.path).expanduser()) as archive:
                shapes = {name: self._shape(archive, name) for name in _DIMENSIONS}
                self._check_shapes(shapes, known, columns)
                return {name: self._array(archive, name) for name in _DIMENSIONS}
        except OSError as error:
            raise OptionError(f"cannot read the counts file {self.path}: {error.strerror or error}") from error
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, SyntaxError, RuntimeError, MemoryError) as error:
            told = " ".join(str(error).split())
            raise OptionError(f"--counts must be an .npz that NumPy wrote; {self.path} is damaged: {told}") from error

    def _shape(self, archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
        """The shape of an array, from its header; the file holds as many bytes as that says."""
        if f"{name}.npy" not in archive.namelist():
            raise OptionError(
                f"--counts must hold the arrays unigram [V], pair [M, 2] and count [M] ({self.path} has no {name})"
            )
        with archive.open(f"{name}.npy") as file:
            shape, _, dtype = _header(file)
            nbytes = archive.getinfo(f"{name}.npy").file_size - file.tell()
        if dtype.kind not in "iu" or len(shape) != _DIMENSIONS[name]:
            raise OptionError(
                f"--counts must hold whole numbers, unigram [V], pair [M, 2] and count [M] (got {name} of {dtype} "
                f"{list(shape)} in {self.path})"
            )
        if min(shape) < 0 or prod(shape) * dtype.itemsize != nbytes:
            raise ValueError(f"{name} is {list(shape)} of {dtype}, and has {nbytes} bytes")
        return shape

    def _check_shapes(self, shapes: Mapping[str, tuple[int, ...]], known: int, columns: int) -> None:
        [size], [pairs, two], [counts] = (shapes[name] for name in _DIMENSIONS)
        if not known <= size <= columns:
            padded = f" ({columns} with padding)" if columns > known else ""
            raise OptionError(
                f"--counts must be of the model's vocabulary of {known} ids{padded} (got unigram of {size} in {self.path}); "
                "give counts of the run's own tokenizer"
            )
        if two != 2 or pairs != counts:
            raise OptionError(
                f"--counts must hold a count for each pair of ids (got pair {[pairs, two]} and count [{counts}] in {self.path})"
            )
        if pairs > MOST_PAIRS:
            raise OptionError(
                f"--counts must hold at most {MOST_PAIRS:,} pairs (got {pairs:,} in {self.path}); leave out the rarest"
            )

    def _array(self, archive: zipfile.ZipFile, name: str) -> NDArray[np.int64]:
        with archive.open(f"{name}.npy") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise OptionError(f"--counts must sum to less than 2**62 (got more in {self.path}); scale them down")
        return array.astype(np.int64)


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)
