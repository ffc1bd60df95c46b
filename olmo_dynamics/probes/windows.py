"""Windows of token ids: split from streams, chosen across domains, padded.

    >>> [window.tolist() for window in split_windows(np.arange(5), 2)]
    [[0, 1], [2, 3]]

Windows do not overlap. The last one may be short; one of a single token is dropped, because it has nothing to predict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Window = NDArray[Any]


def split_windows(ids: NDArray[Any], length: int) -> Iterator[Window]:
    """The windows of one stream of ids, in order."""
    for start in range(0, len(ids) - 1, length):
        yield ids[start : start + length]


def round_robin(domains: Sequence[Sequence[Window]], count: int) -> list[list[Window]]:
    """At most `count` windows: the first of each domain, then the second of each, and so on; returned domain by domain."""
    taken = [0] * len(domains)
    for place in range(max(map(len, domains), default=0)):
        for number, windows in enumerate(domains):
            if place < len(windows) and sum(taken) < count:
                taken[number] += 1
    return [list(windows[:some]) for windows, some in zip(domains, taken, strict=True)]


def pad(windows: Sequence[Window], length: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Stack windows into token ids and mask, both [windows, length], with zeros on the right of short ones."""
    token_ids = np.zeros((len(windows), length), dtype=np.int64)
    mask = np.zeros((len(windows), length), dtype=np.bool_)
    for row, window in enumerate(windows):
        token_ids[row, : len(window)] = window
        mask[row, : len(window)] = True
    return token_ids, mask
