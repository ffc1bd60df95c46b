"""Tensors by themselves or as parts of longer vectors: those of a layer, of a role, or all.

>>> labels = pl.DataFrame({"tensor": ["a", "b"], "layer": [0, 1], "role": ["q_proj", "q_proj"]})
>>> Groups.of(labels, "role").sums(np.array([1.0, 2.0]))
array([3.])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import STATUS_WORDS
from olmo_dynamics.quantities.declaration import Status

By = Literal["tensor", "layer", "role", "all"]
"""The vectors that are compared: one tensor each, or the tensors of a layer, of a role, or all of them as one."""

NUMBERS = ("distance", "distance_se", "relative", "relative_se", "cosine", "cosine_se", "angle", "angle_se")
SUCCESSIVE = ("successive_cosine", "successive_cosine_se")
FLOOR = "relative_floor"
LEFT_OUT = "left_out"

_COLUMNS = {"tensor": ("tensor", "layer", "role"), "layer": ("layer",), "role": ("role",), "all": ()}

_PRECISION = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53, "F8_E4M3": 4, "F8_E5M2": 3}
"""Significant binary digits of a dtype, the leading one included."""


@dataclass(frozen=True)
class Groups:
    """The labels of groups of tensors, one row each, and the place of each tensor's group."""

    labels: pl.DataFrame
    places: np.ndarray

    @classmethod
    def of(cls, labels: pl.DataFrame, by: str) -> Groups:
        """The groups of tensors with these labels, in the order of their first tensors."""
        columns = list(_COLUMNS[by])
        if by in ("tensor", "all"):
            places = np.arange(labels.height) if by == "tensor" else np.zeros(labels.height, np.int64)
            return cls(labels.select(columns), places)
        groups = labels.select(columns).unique(maintain_order=True)
        numbered = groups.with_row_index("place")
        found = labels.select(columns).join(numbered, on=columns, how="left", nulls_equal=True, maintain_order="left")[
            "place"
        ]
        return cls(groups, found.to_numpy().astype(np.int64))

    @property
    def count(self) -> int:
        """The number of groups."""
        return int(self.places.max(initial=-1)) + 1

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each group's values."""
        sums: np.ndarray = np.bincount(self.places, values, self.count)
        return sums

    def left_out(self, labels: pl.DataFrame) -> list[pl.Series]:
        """The column that counts the tensors with these labels in each group of several; none where each is by itself."""
        columns = self.labels.columns
        if "tensor" in columns:
            return []
        counts = labels.group_by(columns).len() if columns else pl.DataFrame({"len": [labels.height]})
        joined = (
            self.labels.join(counts, on=columns, how="left", nulls_equal=True, maintain_order="left")
            if columns
            else counts
        )
        return [joined["len"].fill_null(0).cast(pl.Int64).alias(LEFT_OUT)]

    def frame(self, numbers: Mapping[str, np.ndarray], *, finite: np.ndarray, concentrated: np.ndarray) -> pl.DataFrame:
        """One row per group: its labels, the numbers (null where one is not finite), `concentrated` and `status`."""
        columns = [pl.Series(name, np.where(finite, values, np.nan)).fill_nan(None) for name, values in numbers.items()]
        words = np.where(finite, STATUS_WORDS[Status.MEASURED], STATUS_WORDS[Status.NONFINITE]).tolist()
        said = [pl.Series("concentrated", concentrated, dtype=pl.Boolean), pl.Series("status", words, dtype=pl.String)]
        return pl.DataFrame([*self.labels.get_columns(), *columns, *said])


def require_by(by: str) -> None:
    """Check that tensors can be grouped in this way.

    Raises:
        OptionError: they cannot.
    """
    if by not in get_args(By):
        raise OptionError(f"by must be {', '.join(get_args(By)[:-1])} or {get_args(By)[-1]} (got {by!r})")


def rounding_of(dtype: str) -> float:
    """The relative size of the error that rounding to a dtype adds to a vector: the coarsest of several, NaN if unknown.

    A number m 2^e with p digits is off by up to half a unit of its last digit, evenly spread: by 2^-p / (m √3) of its size in
    root mean square. Over m between 1 and 2, spread evenly in its logarithm, that is 2^-p / sqrt(8 ln 2).

        >>> round(rounding_of("BF16"), 5), round(rounding_of("BF16+F32"), 5)
        (0.00166, 0.00166)
    """
    digits = [_PRECISION.get(each) for each in dtype.split("+")]
    known = [each for each in digits if each is not None]
    if len(known) < len(digits):
        return math.nan
    return 2.0 ** -min(known) / math.sqrt(8 * math.log(2))


def relative_floor(first_norm: np.ndarray, second_norm: np.ndarray, dtypes: tuple[str, str]) -> np.ndarray:
    """The relative distance of two vectors that the rounding of both would make by itself."""
    first, second = map(rounding_of, dtypes)
    with np.errstate(divide="ignore", invalid="ignore"):
        floor: np.ndarray = np.sqrt((first * first_norm) ** 2 + (second * second_norm) ** 2) / first_norm
    return np.where(first_norm > 0, floor, np.nan)
