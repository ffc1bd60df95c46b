"""Sketches of a store as numbers, and the estimates that follow from a pair of them.

>>> sketches = Sketches(open_store("run.zarr"))  # doctest: +SKIP
>>> first, last = sketches.of("step0"), sketches.of("step1000")  # doctest: +SKIP
>>> estimates(first.values, last.values, last.spread)["distance"]  # doctest: +SKIP

A tensor of n > size elements is known by random sums alone, so every number has a standard error. For k components, Gram
matrix G of the vectors involved and a quadratic form x' M x of them, the variance is 2 tr(M G M G) / k, times
1 - sum over blocks of n_b² / n², since elements of one block never meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from olmo_dynamics.errors import OptionError
from olmo_dynamics.store import Store

SKETCHES = "sketches"

CONCENTRATED_BELOW = 64
"""Participation ratio, (sum x²)² / sum x⁴, below which a 95 % interval may hold less than 93 % of the time."""

_FACTS = ("seed", "size", "scheme")

Matrix = Float[np.ndarray, "tensor component"]
PerTensor = Float[np.ndarray, " tensor"]


class Sketched(NamedTuple):
    """The sketches of one revision: `values` [tensor, component] in float64, and the number of elements of each tensor.

    Of a tensor without a sketch that number is -1.
    """

    values: Matrix
    counts: Int64[np.ndarray, " tensor"]

    @property
    def spread(self) -> PerTensor:
        """The variance of an estimate over that of independent elements; 0 where the sketch is the tensor."""
        return spread(self.counts, self.values.shape[1])

    def at(self, places: np.ndarray) -> Sketched:
        """The sketches of some tensors, by place or by truth."""
        return Sketched(self.values[places], self.counts[places])


class Sketches:
    """The sketches of a store's revisions.

    Attributes:
        tensors: names, in the store's order.
        coordinates: layer and role of each, by name.

    Raises:
        OptionError: the store has no sketches.
    """

    def __init__(self, store: Store) -> None:
        if SKETCHES not in store.groups:
            raise OptionError(
                f"{store.path} must have the group {SKETCHES}; collect it with --record {SKETCHES}, beside others"
            )
        self.store = store
        self.facts = {name: store.group(SKETCHES).attributes.get(name) for name in _FACTS}
        axis = store.axis("tensor")
        self.tensors = [str(name) for name in axis.labels]
        self.coordinates: Mapping[str, np.ndarray] = axis.coordinates

    def of(self, revision: str) -> Sketched:
        """The sketches of one revision.

        Raises:
            OptionError: the store has no sketches of this revision.
        """
        if SKETCHES not in self.store.recorded(revision):
            raise OptionError(
                f"{self.store.path} must hold sketches of {revision}; see olmo-dyn show, or collect it with "
                f"--record {SKETCHES}"
            )
        row = self.store.row(SKETCHES, revision)
        counts = np.where(row["status"] > 0, row["element_count"], -1)
        return Sketched(row["sketch"].astype(np.float64), counts)

    def check_comparable(self, other: Sketches) -> None:
        """Check that the sketches of two stores can be subtracted.

        Raises:
            OptionError: they were made with another size or seed.
        """
        for name, mine in self.facts.items():
            if other.facts[name] != mine:
                raise OptionError(
                    f"sketches must have one {name} to be compared ({self.store.path}: {mine}, {other.store.path}: "
                    f"{other.facts[name]}); collect one of the stores again"
                )


def spread(counts: np.ndarray, size: int) -> PerTensor:
    """By number of elements n: 1 - sum over blocks of n_b² / n² with blocks of `size`, and 0 for n <= size."""
    full, rest = np.divmod(counts.astype(np.float64), size)
    inside = (full * size**2 + rest**2) / np.maximum(counts.astype(np.float64), 1) ** 2
    return np.where(counts > size, 1 - inside, 0.0)


def estimates(first: Matrix, second: Matrix, spread: PerTensor) -> dict[str, np.ndarray]:
    """By tensor, with `_se` for each: `distance` ‖b - a‖, `relative` ‖b - a‖ / ‖a‖, `cosine` and `angle` between a and b.

    A ratio whose denominator is 0 is NaN. The angle, in radians, is 2 atan2(‖u - v‖, ‖u + v‖) of the unit vectors: unlike an
    arc cosine, it keeps its digits where it is small.
    """
    error = np.sqrt(spread / first.shape[1])
    moved = second - first
    distance, relative = _norm(moved), _norm(moved) / _or_nan(_norm(first))
    turned, _ = _directions(first, moved)
    cosine, angle = _directions(first, second)
    return {
        "distance": distance,
        "distance_se": distance / np.sqrt(2) * error,
        "relative": relative,
        "relative_se": relative * np.sqrt(1 - np.nan_to_num(turned) ** 2) * error,
        "cosine": cosine,
        "cosine_se": np.sin(angle) ** 2 * error,
        "angle": angle,
        "angle_se": np.abs(np.sin(angle)) * error,
    }


def cosines(first: Matrix, second: Matrix, spread: PerTensor) -> tuple[PerTensor, PerTensor]:
    """The cosine of each pair of vectors, and its standard error; NaN where a vector is 0."""
    cosine, angle = _directions(first, second)
    return cosine, np.sin(angle) ** 2 * np.sqrt(spread / first.shape[1])


def concentrated(vectors: Matrix, spread: PerTensor) -> Bool[np.ndarray, " tensor"]:
    """True where so few elements hold the mass of a sketched vector that its intervals are not to be trusted.

    The fourth standardised moment of the components is 3 + size / participation ratio.
    """
    size = vectors.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = size * (vectors**4).sum(axis=1) / _norm(vectors) ** 4 - 3
    few: np.ndarray = np.nan_to_num(excess) * (spread > 0) > size / CONCENTRATED_BELOW
    return few


def _directions(first: Matrix, second: Matrix) -> tuple[PerTensor, PerTensor]:
    """Cosines and angles of pairs of vectors."""
    u, v = (each / _or_nan(_norm(each))[:, np.newaxis] for each in (first, second))
    apart, together = _norm(u - v), _norm(u + v)
    return 1 - apart**2 / 2, 2 * np.arctan2(apart, together)


def _norm(vectors: Matrix) -> PerTensor:
    norm: np.ndarray = np.sqrt((vectors**2).sum(axis=1))
    return norm


def _or_nan(values: PerTensor) -> PerTensor:
    return np.where(values > 0, values, np.nan)
