"""The number of sequences in each batch of a run: one number, or several that rise during the run.

>>> sizes = BatchSizes(16, ((500, 32), (1000, 64)))
>>> sizes.at(499), sizes.at(500), sizes.before(501)
(16, 32, 8032)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from olmo_dynamics.errors import OptionError


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """`first` sequences; from each of `growth`'s batches on (counted from 0), the number beside it."""

    first: int
    growth: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        sizes = [self.first, *(size for _, size in self.growth)]
        if min(sizes) < 1 or sizes != sorted({*sizes}):
            raise OptionError(f"batch sizes must be at least 1 and rise (got {', '.join(map(str, sizes))})")

    @property
    def largest(self) -> int:
        """The size of the last batches."""
        return self.growth[-1][1] if self.growth else self.first

    def at(self, position: int) -> int:
        """Sequences of the batch after `position` others."""
        return next((size for begin, size in reversed(self.growth) if position >= begin), self.first)

    def stages(self, position: int) -> list[tuple[int, int]]:
        """Pairs (batches, sequences of each), size by size, before that batch; the last may have 0 batches."""
        begins = [0, *(begin for begin, _ in self.growth if begin <= position), position]
        return [(stop - start, self.at(start)) for start, stop in itertools.pairwise(begins)]

    def before(self, position: int) -> int:
        """Sequences of all batches before that one; batches before the first count with its size."""
        return position * self.first if position < 0 else sum(count * size for count, size in self.stages(position))

    def later(self, position: int) -> BatchSizes:
        """The sizes of a run that begins at that batch."""
        return BatchSizes(
            self.at(position), tuple((begin - position, size) for begin, size in self.growth if begin > position)
        )
