"""Sketches of weights: one tensor's bytes in, a record of the group `sketches` out.

    >>> from olmo_dynamics.recorders import find_recorders
    >>> find_recorders([SketchRecorder(size=4096)])[0].attributes()
    {'seed': 0, 'size': 4096, 'scheme': 'rotated blocks 1'}

`olmo_dynamics.recorders.kernels.sketching` defines the sketch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.sketching import (
    SKETCH_SCHEME,
    SKETCH_SEED,
    SKETCH_SIZE,
    WORD,
    sketch,
)


class SketchRecorder(Recorder):
    """The group `sketches`: a linear sketch of every tensor, of `size` components.

    Raises:
        OptionError: the size is not a positive multiple of 64.
    """

    group = GROUPS["sketches"]
    reads = Reads.WEIGHTS
    by_default = False

    def __init__(self, size: int = SKETCH_SIZE) -> None:
        self.size = check_size(size)
        self._records: list[Record] = []
        self._pool: ThreadPoolExecutor | None = None

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The components."""
        return {"component": range(self.size)}

    def attributes(self) -> Mapping[str, str | int | float]:
        """Everything that two sketches must share to be compared."""
        return {"seed": SKETCH_SEED, "size": self.size, "scheme": SKETCH_SCHEME}

    def cost(self, info: TensorInfo) -> float:
        """About half of what the statistics take."""
        return 0.5

    def begin(self) -> None:
        """Start threads, since a large tensor is read in pieces."""
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="olmo-dynamics-sketch")

    def observe(self, seen: Observation) -> None:
        """Add one tensor."""
        assert seen.tensor is not None
        raw = seen.values.contiguous().reshape(-1).view(torch.uint8).numpy()
        assert self._pool is not None
        found = sketch(raw, seen.tensor, size=self.size, run=self._pool.map)
        finite = bool(np.isfinite(found).all())
        at = {"tensor": seen.tensor.name}
        with np.errstate(over="ignore"):
            self._records += [
                self.record("sketch", found.astype(np.float32), **at),
                self.record("element_count", np.int64(seen.tensor.size), **at),
                self.record("status", np.uint8(Status.MEASURED if finite else Status.NONFINITE), **at),
            ]

    def finish(self) -> list[Record]:
        """The records of all tensors."""
        if self._pool is not None:
            self._pool.shutdown()
        return self._records


def check_size(size: int) -> int:
    """Return a number of components that a sketch can have.

    Raises:
        OptionError: it is not a positive multiple of 64.
    """
    if not isinstance(size, int) or size < WORD or size % WORD:
        raise OptionError(f"sketch size must be a multiple of {WORD}, at least {WORD} (got {size!r})")
    return size
