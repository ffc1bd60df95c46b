"""The order of an epoch's instances, shuffled as each trainer shuffles them.

OLMo counts epochs from 0 and OLMo-core from 1; both shuffle `arange(n)` with NumPy's PCG64(seed + epoch). OLMo-core can
shuffle blocks of instances instead, where files are cut by a longer target length.

    >>> [int(each) for each in shuffled(16, seed=6198, epoch=0)[:4]]
    [4, 14, 6, 15]
    >>> [int(each) for each in shuffled(16, seed=34521, epoch=1, block=2)[:4]]
    [8, 9, 12, 13]
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import UInt32


@lru_cache(maxsize=2)  # the current epoch, and the next one
def order_of_epoch(kind: str, count: int, seed: int, epoch: int, block: int = 1) -> UInt32[np.ndarray, " instances"]:
    """All instances of one epoch in the order they are read; do not write to the array."""
    if kind == "sequential":
        return np.arange(count, dtype=np.uint32)
    return shuffled(count, seed=seed, epoch=epoch, block=block)


def shuffled(count: int, *, seed: int, epoch: int, block: int = 1) -> UInt32[np.ndarray, " instances"]:
    """`arange(count)` shuffled by PCG64(seed + epoch), in blocks; instances that fill no whole block are left out."""
    blocks = np.arange(count // block, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed + epoch)).shuffle(blocks)
    if block == 1:
        return blocks
    return (blocks[:, None] * np.uint32(block) + np.arange(block, dtype=np.uint32)).reshape(-1)
