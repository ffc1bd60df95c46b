"""In which order instances are seen: each trainer's own shuffle, epochs and place, so that a fork goes on where its parent was.

OLMo counts epochs from 0 and OLMo-core from 1; both shuffle `arange(n)` with NumPy's PCG64(seed + epoch). OLMo-core can
shuffle blocks of instances instead, where files are cut by a longer target length.

    >>> [int(each) for each in shuffled(16, seed=6198, epoch=0)[:4]]
    [4, 14, 6, 15]
    >>> [int(each) for each in shuffled(16, seed=34521, epoch=1, block=2)[:4]]
    [8, 9, 12, 13]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64, UInt32

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.token_files import TokenFiles

FIRST_EPOCH = {"olmo": 0, "olmo-core": 1, "shuffled": 1, "sequential": 0}
"""The orders that there are, and the number of the first pass over the data in each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """How instances are ordered, and the place where this run began: `skipped` instances into epoch `epoch`.

    A batch's number counts from that place, so a fork may change its batch size in the middle of an epoch.
    """

    kind: str
    seed: int = 0
    epoch: int = 0
    skipped: int = 0
    block: int = 1  # instances that stay together: OLMo-core's chunk size

    def __post_init__(self) -> None:
        if self.kind not in FIRST_EPOCH:
            raise OptionError(f"order must be one of {', '.join(FIRST_EPOCH)}; got {self.kind!r}")
        for name, least in (("seed", 0), ("epoch", FIRST_EPOCH[self.kind]), ("skipped", 0), ("block", 1)):
            if getattr(self, name) < least:
                raise OptionError(f"order {self.kind}: {name} must be at least {least}; got {getattr(self, name)}")


@dataclass(frozen=True)
class OrderedBatches:
    """Batches of `sequences` instances; what fills no whole batch at an epoch's end is dropped, as both trainers do."""

    files: TokenFiles
    order: Order
    sequences: int

    def __post_init__(self) -> None:
        if self.per_epoch == 0:
            raise TrainingError(
                f"one batch is {self.sequences} instances of {self.files.length}; the data holds {self.files.count}: "
                "give more data or a smaller batch"
            )
        if self.order.skipped > self.files.count:
            raise TrainingError(
                f"the parent stood {self.order.skipped} instances into its data; these files hold {self.files.count}: "
                "give the parent's own files in its order, or choose --order sequential or shuffled"
            )

    @property
    def per_epoch(self) -> int:
        """Whole batches in one pass over the data."""
        return self.files.count // self.sequences

    @property
    def left_in_epoch(self) -> int:
        """Whole batches from the place where the run began to the end of that epoch."""
        return (self.files.count - self.order.skipped) // self.sequences

    def place(self, position: int) -> tuple[int, int]:
        """Epoch, and instances before it in that epoch, of the batch after `position` others of this run."""
        if position < self.left_in_epoch:
            return self.order.epoch, self.order.skipped + position * self.sequences
        passes, row = divmod(position - self.left_in_epoch, self.per_epoch)
        return self.order.epoch + 1 + passes, row * self.sequences

    def instances(self, position: int) -> Int64[np.ndarray, " sequences"]:
        """Which instances that batch takes."""
        epoch, first = self.place(position)
        order = order_of_epoch(self.order.kind, self.files.count, self.order.seed, epoch, self.order.block)
        return order[first : first + self.sequences].astype(np.int64)

    def instances_before(self, count: int) -> Int64[np.ndarray, " count"]:
        """The last `count` instances that were seen before this run began; no more than it skipped."""
        order = order_of_epoch(self.order.kind, self.files.count, self.order.seed, self.order.epoch, self.order.block)
        return order[max(self.order.skipped - count, 0) : self.order.skipped].astype(np.int64)

    def batch(self, position: int) -> Batch:
        """The batch after `position` others."""
        return Batch(torch.from_numpy(self.files.read(self.instances(position))))


@lru_cache(maxsize=2)  # the epoch at hand, and the next one
def order_of_epoch(kind: str, count: int, seed: int, epoch: int, block: int = 1) -> UInt32[np.ndarray, " instances"]:
    """All instances of one epoch in the order they are seen; not to be written to."""
    if kind == "sequential":
        return np.arange(count, dtype=np.uint32)
    return shuffled(count, seed=seed, epoch=epoch, block=block)


def shuffled(count: int, *, seed: int, epoch: int, block: int = 1) -> UInt32[np.ndarray, " instances"]:
    """`arange(count)` shuffled by PCG64(seed + epoch), in blocks; what fills no block is left out."""
    blocks = np.arange(count // block, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed + epoch)).shuffle(blocks)
    if block == 1:
        return blocks
    return (blocks[:, None] * np.uint32(block) + np.arange(block, dtype=np.uint32)).reshape(-1)
