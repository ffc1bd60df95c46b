"""Singular values of weights: one matrix in, records of the group `spectra` out.

    >>> recorder = SpectraRecorder("top")
    >>> recorder.attributes()
    {'seed': 0, 'extent': 'top'}

`olmo_dynamics.recorders.kernels.krylov` says what is proven of a value that is found by steps, and what holds with a probability.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.model import expected_shapes
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.gram_products import ScaledMatrix
from olmo_dynamics.recorders.kernels.krylov import (
    RANK_TOLERANCE,
    Leading,
    largest_singular_values,
)
from olmo_dynamics.recorders.kernels.spectrum import (
    FULL_SIDE,
    Spectrum,
    all_singular_values,
    effective_rank,
    fit_tail,
    participation_ratio,
    stable_rank,
)
from olmo_dynamics.recorders.kernels.tensor_stats import TensorStats

EXTENTS = ("norm", "top", "full")
"""Singular values that are found of a matrix whose sides are both longer than 512: the largest, the 32 largest, or all."""

RANKS = 32
"""The number of singular values that are kept."""

_SEED = 0
_WIDTHS = {"norm": 2, "top": 16}  # residuals that join the span at a time
_KEPT = {"norm": 2, "top": RANKS}  # vectors for the next revision
_CACHE_BYTES = 256 << 20  # of vectors for the next revision
_USUAL_VECTORS = {"norm": 96, "top": 320}  # of the span, for the plan
_COSTS = {"norm": 10.0, "top": 40.0}  # over the shared statistics: about 10 and 25 passes
_FULL_COST = 0.3  # for each column of the shorter side
_PLAIN_RANGE = (1e-250, 1e250)  # of a sum of squares that neither overflowed nor vanished


class SpectraRecorder(Recorder):
    """The group `spectra`: singular values of every matrix.

    Args:
        extent: `norm` for the spectral norm and the stable rank, `top` for the 32 largest singular values as well, `full` for
            all of them, and what follows. A matrix with a side of at most 512 is decomposed in full whatever it says.

    Raises:
        OptionError: the extent is unknown.
    """

    group = GROUPS["spectra"]
    reads = Reads.WEIGHTS
    by_default = False

    def __init__(self, extent: str = "norm") -> None:
        if extent not in EXTENTS:
            hint = did_you_mean(str(extent), EXTENTS)
            raise OptionError(f"extent of spectra must be {', '.join(EXTENTS)} (got {extent!r}){hint}")
        self.extent = extent
        self._cache = VectorCache(_CACHE_BYTES)
        self._records: list[Record] = []
        self._pool: ThreadPoolExecutor | None = None

    def selects(self, info: TensorInfo) -> bool:
        """True for matrices."""
        return len(info.shape) == 2

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The ranks, from 1."""
        return {"singular_rank": range(1, RANKS + 1)}

    def attributes(self) -> Mapping[str, str | int | float]:
        """The seed of the random vectors, and the extent."""
        return {"seed": _SEED, "extent": self.extent}

    def kept_bytes(self) -> int:
        """The span of the largest matrix, or its Gram matrix, and the vectors kept for the next revision."""
        if self.context.config is None:
            return 0
        shapes = [shape for shape in expected_shapes(self.context.config).values() if len(shape) == 2]
        if self.extent == "full":
            side = max(min(shape) for shape in shapes)
            return 4 * side * side * 8
        columns = max(shape[1] for shape in shapes)
        kept = sum(shape[1] for shape in shapes) * _KEPT[self.extent] * 4
        return 2 * columns * _USUAL_VECTORS[self.extent] * 8 + min(kept, _CACHE_BYTES)

    def cost(self, info: TensorInfo) -> float:
        """Its passes over the bytes; of a matrix decomposed in full, some operations per element and column."""
        if self._in_full(info):
            return _FULL_COST * min(info.shape)
        return _COSTS[self.extent]

    def begin(self) -> None:
        """Start threads, which share the rows of a large matrix."""
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="olmo-dynamics-spectra")

    def observe(self, seen: Observation) -> None:
        """Add one tensor."""
        assert seen.tensor is not None
        found = self._measure(seen.tensor, seen.values, seen.stats)
        self._records += [self.record(name, value, tensor=seen.tensor.name) for name, value in found.items()]

    def finish(self) -> list[Record]:
        """The records of all tensors."""
        if self._pool is not None:
            self._pool.shutdown()
        return self._records

    def _in_full(self, info: TensorInfo) -> bool:
        return self.extent == "full" or min(info.shape) <= FULL_SIDE

    def _measure(self, info: TensorInfo, values: Tensor, stats: TensorStats) -> dict[str, object]:
        in_full = self._in_full(info)
        abs_max = max(abs(stats.smallest), abs(stats.largest))
        if not stats.finite:
            return {"status": np.uint8(Status.NONFINITE), "full_status": np.uint8(Status.NONFINITE if in_full else 0)}
        if abs_max == 0:
            return _of_spectrum(Spectrum(np.zeros(min(info.shape)), np.zeros(min(info.shape))))
        assert self._pool is not None
        matrix = ScaledMatrix.of(values, abs_max, self._pool.map)
        frobenius = _frobenius(matrix, stats.square_sum)
        if in_full:
            return _of_spectrum(all_singular_values(matrix, frobenius=frobenius))
        found = largest_singular_values(
            matrix,
            frobenius=frobenius,
            seed=_seed_of(info.name, frobenius),
            count=RANKS if self.extent == "top" else 1,
            near=self._cache.get(info),
            width=_WIDTHS[self.extent],
        )
        self._cache.put(info, found.vectors[:, : _KEPT[self.extent]])
        return _of_leading(found, frobenius)


class VectorCache:
    """Right singular vectors of the revision measured last, by tensor: a start for the next one, within a number of bytes.

    All copies of a recorder share it. A start near the answer saves steps; whatever lies in the cache, the results hold.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[tuple[str, tuple[int, ...]], Float[np.ndarray, "columns some"]] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(held.nbytes for held in self._held.values())

    def get(self, info: TensorInfo) -> Float[np.ndarray, "columns some"] | None:
        """The vectors of a tensor of that name and shape, if they were kept."""
        return self._held.get((info.name, info.shape))

    def put(self, info: TensorInfo, vectors: Float[np.ndarray, "columns some"]) -> None:
        """Keep a tensor's vectors, unless there is no room."""
        self._held.pop((info.name, info.shape), None)
        if self.nbytes + vectors.nbytes <= self._max_bytes:
            self._held[info.name, info.shape] = vectors.copy()


def _seed_of(name: str, frobenius: float) -> int:
    """A seed for the random vectors, other ones for each tensor and revision; the same again for the same weights."""
    digest = hashlib.sha256(f"olmo_dynamics spectra {_SEED}/{name}/{frobenius.hex()}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def _frobenius(matrix: ScaledMatrix, square_sum: float) -> float:
    """The Frobenius norm, from the sum of squares where that is in the range of float64."""
    if _PLAIN_RANGE[0] < square_sum < _PLAIN_RANGE[1]:
        return math.sqrt(square_sum)
    return matrix.unit * math.sqrt(sum(float(block.square().sum()) for block in matrix.blocks(rows=1024)))


def _of_spectrum(found: Spectrum) -> dict[str, object]:
    """The values of every quantity, of a matrix that was decomposed in full."""
    norm, bound = float(found.values[0]), float(found.bounds[0])
    spread = found.values[0] > 0
    tail = fit_tail(found.above_rounding**2)
    return {
        "spectral_norm": max(norm - bound, 0.0),
        "spectral_norm_bound": 2 * bound,
        "spectral_norm_limit": norm + bound,
        "stable_rank": stable_rank(found.values),
        "singular_value": _padded(np.where(found.bounds <= RANK_TOLERANCE * found.values, found.values, np.nan)),
        "singular_value_bound": _padded(found.bounds),
        "effective_rank": effective_rank(found.values),
        "effective_rank_of_squares": effective_rank(found.values**2),
        "participation_ratio": participation_ratio(found.values),
        "tail_exponent": tail.exponent,
        "tail_count": tail.count,
        "tail_distance": tail.distance,
        "full_status": np.uint8(Status.MEASURED if math.isfinite(tail.exponent) else Status.DEGENERATE),
        "status": np.uint8(Status.MEASURED if spread else Status.DEGENERATE),
    }


def _of_leading(found: Leading, frobenius: float) -> dict[str, object]:
    """The values of every quantity that the largest singular values tell."""
    within = found.bounds <= RANK_TOLERANCE * found.values
    return {
        "spectral_norm": found.values[0],
        "spectral_norm_bound": found.bounds[0],
        "spectral_norm_limit": found.limit,
        "stable_rank": (frobenius / found.values[0]) ** 2,
        "singular_value": _padded(np.where(within, found.values, np.nan)),
        "singular_value_bound": _padded(found.bounds),
        "full_status": np.uint8(Status.NOT_MEASURED),
        "status": np.uint8(Status.MEASURED),
    }


def _padded(values: Float[np.ndarray, " some"]) -> Float[np.ndarray, " rank"]:
    """The first 32 values, and NaN for ranks that the matrix does not have or that were not measured."""
    found = np.full(RANKS, np.nan)
    found[: min(RANKS, len(values))] = values[:RANKS]
    return found
