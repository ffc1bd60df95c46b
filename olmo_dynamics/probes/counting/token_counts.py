"""Counts of tokens, and of pairs of tokens that follow each other.

>>> counts = TokenCounts.of_ids(np.array([0, 1, 1, 0, 1]), vocabulary=3)
>>> counts.unigram.tolist(), counts.pairs.tolist(), counts.pair_counts.tolist()
([2, 3, 0], [[0, 1], [1, 0], [1, 1]], [2, 1, 1])
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]

_AT_ONCE = 1 << 22  # tokens whose pairs are sorted together


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Counts of a vocabulary's tokens, and of the pairs that were seen.

    Attributes:
        unigram: the count of each token id, [vocabulary].
        keys: first * vocabulary + second of each pair, ascending, each once.
        pair_counts: the count of each pair, at least 1.
    """

    unigram: Whole
    keys: Whole
    pair_counts: Whole

    @classmethod
    def of_ids(cls, ids: NDArray[Any], vocabulary: int) -> Self:
        """Count ids [positions] or [rows, positions], and the pairs within each row."""
        unigram = np.zeros(vocabulary, dtype=np.int64)
        keys, pair_counts = _nothing(), _nothing()
        for block in _blocks(np.atleast_2d(ids)):
            unigram += np.bincount(block[:, :_AT_ONCE].reshape(-1), minlength=vocabulary)
            found, times = np.unique(block[:, :-1] * vocabulary + block[:, 1:], return_counts=True)
            keys, pair_counts = _added(np.concatenate([keys, found]), np.concatenate([pair_counts, times]))
        return cls(unigram, keys, pair_counts)

    @classmethod
    def of_pairs(cls, unigram: Whole, pairs: Whole, pair_counts: Whole) -> Self:
        """Counts of `pairs` [M, 2] in any order, some of them perhaps several times or 0 times."""
        seen = pair_counts > 0
        keys = pairs[seen, 0] * len(unigram) + pairs[seen, 1]
        return cls(unigram, *_added(keys, pair_counts[seen]))

    @property
    def vocabulary(self) -> int:
        """The number of token ids."""
        return len(self.unigram)

    @property
    def tokens(self) -> int:
        """The number of tokens that were counted."""
        return int(self.unigram.sum())

    @property
    def pairs(self) -> Whole:
        """The pairs that were seen, [pairs, 2]."""
        return np.stack(np.divmod(self.keys, self.vocabulary), axis=1)

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.unigram.nbytes + self.keys.nbytes + self.pair_counts.nbytes

    @cached_property
    def sha256(self) -> str:
        """The hash of the counts, whatever file they were read from: SHA-256 over the vocabulary and the number of pairs in
        ASCII with a comma between them, a newline, and `unigram`, `keys` and `pair_counts` as little-endian int64."""
        digest = hashlib.sha256(f"{self.vocabulary},{len(self.keys)}\n".encode())
        for array in (self.unigram, self.keys, self.pair_counts):
            digest.update(np.ascontiguousarray(array, dtype="<i8").data)
        return digest.hexdigest()


def _blocks(rows: NDArray[Any]) -> Iterator[Whole]:
    """Blocks of about `_AT_ONCE` ids: some rows, or a part of one with the id that follows it."""
    count, positions = rows.shape
    at_once = max(1, _AT_ONCE // positions)
    for first in range(0, count, at_once):
        for start in range(0, positions, _AT_ONCE):
            yield np.asarray(rows[first : first + at_once, start : start + _AT_ONCE + 1], dtype=np.int64)


def _nothing() -> Whole:
    return np.zeros(0, dtype=np.int64)


def _added(keys: Whole, counts: Whole) -> tuple[Whole, Whole]:
    """Keys in order, each once, with the sum of its counts."""
    if len(keys) and not (np.diff(keys) > 0).all():
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        keys, counts = keys[first], np.add.reduceat(counts, first)
    return keys, counts
