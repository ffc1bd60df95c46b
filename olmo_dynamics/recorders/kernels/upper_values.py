"""The numbers of each head above a limit of its own, picked in one pass.

>>> numbers = np.array([[[[1.0, 5.0], [7.0, 2.0]], [[0.0, 3.0], [4.0, 9.0]]]], np.float32)  # [batch, heads, queries, keys]
>>> [found.tolist() for found in upper_values(numbers, [4.5, 3.5])]
[[5.0, 7.0], [4.0, 9.0]]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

from olmo_dynamics.recorders.kernels.jit import jit

_RUN = 64  # numbers that are compared at once: most runs hold none above the limit


@jit
def _pick(
    numbers: Float[np.ndarray, "batch heads queries keys"],
    limits: Float[np.ndarray, " heads"],
    found: Float[np.ndarray, "heads room"],
    counts: Int64[np.ndarray, " heads"],
) -> None:
    batch, heads, queries, keys = numbers.shape
    for head in range(heads):
        limit, count = limits[head], 0
        for sequence in range(batch):
            for query in range(queries):
                row = numbers[sequence, head, query]
                for start in range(0, keys, _RUN):
                    stop, above = min(start + _RUN, keys), np.int64(0)
                    for key in range(start, stop):
                        above += np.int64(row[key] > limit)
                    if above > 0:
                        for key in range(start, stop):
                            if row[key] > limit:
                                found[head, count] = row[key]
                                count += 1
        counts[head] = count


def upper_values(
    numbers: Float[np.ndarray, "batch heads queries keys"], limits: Sequence[float]
) -> list[Float[np.ndarray, " some"]]:
    """A copy of each head's numbers above its limit, in order; NaN is above none."""
    batch, heads, queries, keys = numbers.shape
    found = np.empty((heads, batch * queries * keys), numbers.dtype)
    counts = np.zeros(heads, np.int64)
    _pick(numbers, np.array(limits, numbers.dtype), found, counts)
    return [found[head, :count].copy() for head, count in enumerate(counts.tolist())]
