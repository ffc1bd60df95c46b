"""Batches in each trainer's own order, so that a fork continues where its parent stopped.

>>> sampler = Sampler(files, DataOrder(kind="olmo", seed=6198, skipped=640), BatchSizes(16))    # doctest: +SKIP
>>> sampler.place(0), sampler.batch(0).token_ids.shape                                          # doctest: +SKIP
((0, 640), torch.Size([16, 128]))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.probes.token_sources import TokenSource
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.data.batch_size import BatchSizes
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.data.masks import UNMASKED, LabelMask
from olmo_dynamics.training.data.order import FIRST_EPOCH, DataOrder
from olmo_dynamics.training.data.shuffle import order_of_epoch


@dataclass(frozen=True)
class Sampler:
    """Batches of instances; an incomplete batch at an epoch's end is dropped, as both trainers do.

    Position 0 is the first batch of this run; negative positions are batches before it, of the same size.
    """

    files: TokenFiles
    order: DataOrder
    sizes: BatchSizes
    mask: LabelMask = UNMASKED

    def __post_init__(self) -> None:
        if self.files.count < self.sizes.largest:
            raise TrainingError(
                f"one batch is {self.sizes.largest} instances of {self.files.length} tokens; the data holds {self.files.count}: "
                "give more data or a smaller batch"
            )
        if self.order.skipped > self.files.count:
            raise TrainingError(
                f"the parent had read {self.order.skipped} instances of its data; these files hold {self.files.count}: "
                "give the parent's own files in its order, or choose --order sequential or shuffled"
            )

    @property
    def sources(self) -> tuple[TokenSource, ...]:
        """The files, in order."""
        return self.files.sources

    def place(self, position: int) -> tuple[int, int]:
        """The epoch of the batch after `position` others of this run, and the instances before it in that epoch.

        Raises:
            TrainingError: the batch lies before the beginning of the data.
        """
        if position < 0:
            return self._earlier(-position * self.sizes.first)
        epoch, row = self.order.epoch, self.order.skipped
        for batches, sequences in self.sizes.stages(position):
            epoch, row = self._advance((epoch, row), batches, sequences)
        return epoch, row

    def instances(self, position: int) -> Int64[np.ndarray, " sequences"]:
        """The numbers of that batch's instances."""
        epoch, first = self.place(position)
        order = order_of_epoch(self.order.kind, self.files.count, self.order.seed, epoch, self.order.block)
        return order[first : first + self.sizes.at(position)].astype(np.int64)

    def batch(self, position: int) -> Batch:
        """The batch after `position` others."""
        return self.mask.batch(self.files.read(self.instances(position)))

    def before(self) -> Batch | None:
        """The last batch before this run began, or None if there was no whole one in the epoch."""
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
                f"the parent had read {self.order.skipped} sequences of its data in epoch {self.order.epoch}, fewer than the "
                f"{instances} asked for: choose a later --step"
            )
        return self.order.epoch + epochs, row
