"""One tensor through time, as xarray's backends give arrays: an index is turned into the bytes that it needs.

>>> history = TensorHistory([HeldTensor(checkpoint, info)], (1, 64, 32), np.dtype("float32"))  # doctest: +SKIP
>>> import xarray as xr
>>> from xarray.core.indexing import LazilyIndexedArray
>>> xr.Variable(("revision", "row", "column"), LazilyIndexedArray(history))[0, :8].values  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import numpy as np
from xarray.backends import BackendArray
from xarray.core.indexing import ExplicitIndexer, IndexingSupport, explicit_indexing_adapter

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.lazy_weights.decoding import decoded
from olmo_dynamics.names import TensorInfo

READERS = 4
"""Revisions read at once; each has connections of its own."""

GAP_BYTES = 64 << 10
"""Rows at most so far apart are read together with those between: 64 KiB cost less than a request."""


class HeldTensor(NamedTuple):
    """A tensor of an open checkpoint."""

    checkpoint: Checkpoint
    info: TensorInfo


class TensorHistory(BackendArray):
    """A tensor of several revisions as one array [revision, *axes], of which nothing is in memory.

    Args:
        held: the tensor in each revision, None where it is missing.
        shape: with the longest of each axis; a revision reads NaN beyond its own.
        dtype: of the values.
    """

    def __init__(self, held: Sequence[HeldTensor | None], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.held = tuple(held)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nothing in it changes, and open checkpoints cannot be copied

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        found: np.ndarray = explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)
        return found

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        """The elements at an int, a slice or an array of places on each axis."""
        ranges = [np.arange(size)[each] for size, each in zip(self.shape, key, strict=True)]
        chosen, *axes = map(np.atleast_1d, ranges)
        found = np.empty((len(chosen), *map(len, axes)), self.dtype)

        def fill(place: int) -> None:
            self._fill(found[place, ...], self.held[chosen[place]], axes)

        with ThreadPoolExecutor(min(READERS, len(chosen)) or 1, thread_name_prefix="olmo-dynamics-weights") as readers:
            list(readers.map(fill, range(len(chosen))))
        return found.reshape([len(each) for each in ranges if each.ndim])

    def _fill(self, found: np.ndarray, held: HeldTensor | None, axes: Sequence[np.ndarray]) -> None:
        """Write one revision's elements at the places `axes` into an array of their shape."""
        if held is None:
            found[...] = np.nan
            return
        there = [places < size for places, size in zip(axes, held.info.shape, strict=True)]
        inside = [places[mask] for places, mask in zip(axes, there, strict=True)]
        whole = all(mask.all() for mask in there)
        if not whole:
            found[...] = np.nan
        if not all(map(len, inside)):
            return
        values = read_rows(held, inside[0]) if inside else _whole(held)
        for axis, places in enumerate(inside[1:], 1):
            if len(places) < values.shape[axis] or (np.diff(places) != 1).any():
                values = values.take(places, axis)
        found[... if whole else np.ix_(*map(np.flatnonzero, there))] = values
        held.checkpoint.release([held.info])


def read_rows(held: HeldTensor, rows: np.ndarray) -> np.ndarray:
    """The given rows of a tensor, in their order; only their bytes are read, and gaps of at most `GAP_BYTES`."""
    info = held.info
    row_bytes = max(1, info.nbytes // info.shape[0])
    ordered = np.unique(rows)
    apart = np.flatnonzero((np.diff(ordered) - 1) * row_bytes > GAP_BYTES) + 1
    runs = [(int(run[0]), int(run[-1]) + 1) for run in np.split(ordered, apart)]
    raws = held.checkpoint.read_parts([info.rows(first, stop) for first, stop in runs])
    blocks = [decoded(raw, info.dtype).reshape(-1, *info.shape[1:]) for raw in raws]
    values = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    read = np.concatenate([np.arange(first, stop) for first, stop in runs])
    return values if np.array_equal(read, rows) else values[np.searchsorted(read, rows)]


def _whole(held: HeldTensor) -> np.ndarray:
    return decoded(held.checkpoint.read(held.info), held.info.dtype).reshape(held.info.shape)
