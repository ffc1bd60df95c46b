"""Statistics of an optimiser's state: the moments of one tensor in, records of the group `optimizer` out.

    >>> from olmo_dynamics.recorders import find_recorders
    >>> find_recorders([OptimizerRecorder(size=4096)])[0].attributes()
    {'optimizer': 'unknown', 'seed': 0, 'size': 4096, 'scheme': 'rotated blocks 1'}

Of AdamW everything is measured. An optimiser that keeps only a first moment (Muon, Dion, Lion) gives its size and sketch, and the
rest is NaN. Sums accumulate in float64.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.adam_sums import AdamSums, Correction, adam_sums
from olmo_dynamics.recorders.kernels.moments import ratio
from olmo_dynamics.recorders.kernels.sketching import SKETCH_SCHEME, SKETCH_SEED, SKETCH_SIZE, sketch
from olmo_dynamics.recorders.sketches import check_size

UNKNOWN = "unknown"


class OptimizerRecorder(Recorder):
    """The group `optimizer`: sizes of AdamW's moments and of its update, and a sketch of the first, of `size` components.

    Raises:
        OptionError: the size is not a positive multiple of 64.
    """

    group = GROUPS["optimizer"]
    reads = Reads.OPTIMIZER
    by_default = False

    def __init__(self, size: int = SKETCH_SIZE) -> None:
        self.size = check_size(size)
        self._records: list[Record] = []
        self._rates: set[float] = set()
        self._pool: ThreadPoolExecutor | None = None

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The components."""
        return {"component": range(self.size)}

    def attributes(self) -> Mapping[str, str | int | float]:
        """The optimiser's name, and everything that two sketches must share to be compared."""
        name = self.context.optimizer or UNKNOWN
        return {"optimizer": name, "seed": SKETCH_SEED, "size": self.size, "scheme": SKETCH_SCHEME}

    def begin(self) -> None:
        """Start threads, since a large tensor is read in pieces."""
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="olmo-dynamics-moments")

    def observe(self, seen: Observation) -> None:
        """Add one tensor."""
        assert seen.tensor is not None
        assert self._pool is not None
        numbers = {name: float(value) for name, value in seen.beside.items() if value.numel() == 1 and value.ndim == 0}
        self._rates.add(numbers.get("lr", math.nan))
        second, correction = seen.beside.get("exp_avg_sq"), _correction(numbers)
        sums = adam_sums(seen.values, second, correction, self._pool.map)
        raw = seen.values.contiguous().reshape(-1).view(torch.uint8).numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            found = sketch(raw, seen.tensor, size=self.size, run=self._pool.map).astype(np.float32)
        values = {
            **_numbers(sums, seen.values.numel(), correction),
            "optimizer_step": numbers.get("step", math.nan),
            "exp_avg_sketch": found,
            **_statuses(sums, second, correction),
        }
        self._records += [self.record(name, value, tensor=seen.tensor.name) for name, value in values.items()]

    def finish(self) -> list[Record]:
        """The records of all tensors, and the learning rate."""
        if self._pool is not None:
            self._pool.shutdown()
        if not self._records:
            return []
        rate = self._rates.pop() if len(self._rates) == 1 else math.nan
        return [*self._records, self.record("learning_rate", rate)]


def _correction(numbers: Mapping[str, float]) -> Correction | None:
    """AdamW's constants; None where one is unknown or impossible."""
    given = [numbers.get(name, math.nan) for name in ("beta1", "beta2", "eps", "step")]
    beta1, beta2, eps, step = given
    known = 0 <= beta1 < 1 and 0 <= beta2 < 1 and 0 <= eps < math.inf and 0 <= step < math.inf
    return Correction(beta1, beta2, eps, step) if known else None


def _numbers(sums: AdamSums, count: int, correction: Correction | None) -> dict[str, float]:
    rms, mean = math.sqrt(sums.first_squares / count), sums.second_sum / count
    found = {"exp_avg_rms": rms, "exp_avg_sq_mean": mean}
    if correction is None or sums.dominated < 0:
        return found | dict.fromkeys(("update_rms", "eps_dominance", "signal_to_noise"), math.nan)
    second = mean / correction.second
    return found | {
        "update_rms": math.sqrt(sums.update_squares / count),
        "eps_dominance": sums.dominated / count,
        "signal_to_noise": ratio(rms / correction.first, math.sqrt(second) if second >= 0 else math.nan),
    }


def _statuses(sums: AdamSums, second: Tensor | None, correction: Correction | None) -> dict[str, np.uint8]:
    finite = math.isfinite(sums.first_squares) and (second is None or math.isfinite(sums.second_sum))
    of_first = Status.MEASURED if finite else Status.NONFINITE
    if second is None or correction is None:
        of_update = Status.NOT_MEASURED
    elif finite and (not math.isfinite(sums.update_squares) or not sums.second_sum > 0):
        of_update = Status.DEGENERATE
    else:
        of_update = of_first
    return {"status": np.uint8(of_first), "update_status": np.uint8(of_update)}
