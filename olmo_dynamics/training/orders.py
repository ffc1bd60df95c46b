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
from jaxtyping import Int64, UInt32

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.marks import UNMARKED, Marks
from olmo_dynamics.training.sizes import BatchSizes
from olmo_dynamics.training.token_files import TokenFiles
from olmo_dynamics.training.token_sources import TokenSource

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
    """Batches of instances; what fills no whole batch at an epoch's end is dropped, as both trainers do.

    Position 0 is the batch after the place that `order` says; positions below it are batches seen before, of the same size.
    """

    files: TokenFiles
    order: Order
    sizes: BatchSizes
    marks: Marks = UNMARKED

    def __post_init__(self) -> None:
        if self.files.count < self.sizes.largest:
            raise TrainingError(
                f"one batch is {self.sizes.largest} instances of {self.files.length}; the data holds {self.files.count}: "
                "give more data or a smaller batch"
            )
        if self.order.skipped > self.files.count:
            raise TrainingError(
                f"the parent stood {self.order.skipped} instances into its data; these files hold {self.files.count}: "
                "give the parent's own files in its order, or choose --order sequential or shuffled"
            )

    @property
    def sources(self) -> tuple[TokenSource, ...]:
        """The files, in order."""
        return self.files.sources

    def place(self, position: int) -> tuple[int, int]:
        """Epoch, and instances before it in that epoch, of the batch after `position` others of this run.

        Raises: TrainingError for one before the data's beginning.
        """
        if position < 0:
            return self._earlier(-position * self.sizes.first)
        epoch, row = self.order.epoch, self.order.skipped
        for batches, sequences in self.sizes.stages(position):
            epoch, row = self._advance((epoch, row), batches, sequences)
        return epoch, row

    def instances(self, position: int) -> Int64[np.ndarray, " sequences"]:
        """Which instances that batch takes."""
        epoch, first = self.place(position)
        order = order_of_epoch(self.order.kind, self.files.count, self.order.seed, epoch, self.order.block)
        return order[first : first + self.sizes.at(position)].astype(np.int64)

    def batch(self, position: int) -> Batch:
        """The batch after `position` others."""
        return self.marks.batch(self.files.read(self.instances(position)))

    def before(self) -> Batch | None:
        """The batch that was seen last before this run began, if there was a whole one in the epoch."""
        return self.batch(-1) if self.order.skipped >= self.sizes.first else None

    def __str__(self) -> str:
        """`olmo, seed 6198, epoch 0, after 640 sequences`."""
        order = self.order
        return f"{order.kind}, seed {order.seed}, epoch {order.epoch}, after {order.skipped} sequences"

    def _advance(self, place: tuple[int, int], batches: int, sequences: int) -> tuple[int, int]:
        epoch, row = place
        left = (self.files.count - row) // sequences
        if batches < left or not batches:
            return (epoch, row + batches * sequences) if left else (epoch + 1, 0)
        passes, batch = divmod(batches - left, self.files.count // sequences)
        return epoch + 1 + passes, batch * sequences

    def _earlier(self, instances: int) -> tuple[int, int]:
        whole = self.files.count // self.sizes.first * self.sizes.first
        epochs, row = divmod(self.order.skipped - instances, whole)
        if self.order.skipped >= instances:
            epochs, row = 0, self.order.skipped - instances
        if self.order.epoch + epochs < FIRST_EPOCH[self.order.kind]:
            raise TrainingError(
                f"the parent had seen {self.order.skipped} sequences of its data in epoch {self.order.epoch}; wanted "
                f"{instances} before its place: choose a later --step"
            )
        return self.order.epoch + epochs, row


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
