"""Recorded statistics of weights, as a store's audit compares them.

>>> weights = RecordedWeights(store)  # doctest: +SKIP
>>> dict(weights.prints())["lm_head.weight"]["step1000"]  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import STATUS, Status
from olmo_dynamics.store import Store

GROUP = "parameters"
LEAST_ELEMENTS = 100_000
"""Fewest elements of a tensor whose statistics cannot agree by chance, nor stand still while it is trained."""

_COUNTS = ("element_count", "zero_count", "nan_count", "inf_count")
_ROWS = "residual_vector_l2_quantile"
_OPTIMIZER, _RATE = "optimizer", "learning_rate"
_BY_ROW = ("embed_tokens", "lm_head")  # roles whose residual vectors are rows, one for each token


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One number of a tensor at every revision, NaN where it is not measured."""

    label: str
    values: Float[np.ndarray, " revisions"]


class RecordedWeights:
    """The measured statistics of a store's large tensors: of those with `least` elements at least.

    `rates` gives the learning rate of each step, as far as it is known; it is called where it matters.

    Raises:
        OptionError: the store has no statistics of weights.
    """

    def __init__(
        self, store: Store, *, least: int = LEAST_ELEMENTS, rates: Callable[[], Mapping[int, float]] = dict
    ) -> None:
        if GROUP not in store.groups:
            raise OptionError(
                f"{store.path} must hold the group {GROUP} to be audited (it holds {', '.join(store.groups)}); "
                f"collect --record {GROUP} adds it"
            )
        self.revisions: Sequence[Revision] = store.revisions()
        self._store, self._rates, axis = store, rates, store.axis("tensor")
        large = store.array(GROUP, "element_count").max(axis=0, initial=0) >= least
        self._large = np.flatnonzero(large)
        self.tensors: list[str] = axis.labels[self._large].tolist()
        self.roles: list[str] = axis.coordinates["role"][self._large].tolist()
        measured = store.array(GROUP, STATUS)[:, self._large] == Status.MEASURED
        norms = store.array(GROUP, "l2_norm")[:, self._large]
        self.measured = measured & np.isfinite(norms) & (norms > 0)
        self.norms = np.where(self.measured, norms, np.nan)

    def prints(self) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Each tensor with the statistics of every revision that has it, as bytes that are equal where the numbers are.

        Positive and negative zeros are equal.
        """
        store = self._store
        of_tensor = [each for each in store.quantities(GROUP) if each.axes[:1] == ("tensor",) and _is_small(each.axes)]
        names = [each.name for each in of_tensor if each.name not in (*_COUNTS, STATUS)]
        picked = [store.array(GROUP, name)[:, self._large] for name in names]
        arrays = [each if each.ndim == 3 else each[:, :, np.newaxis] for each in picked]
        values = np.concatenate(arrays, axis=2).astype(np.float64) + 0.0  # -0.0 becomes 0.0
        values[np.isnan(values)] = np.nan
        for place, tensor in enumerate(self.tensors):
            held = np.flatnonzero(self.measured[:, place]).tolist()
            yield tensor, {self.revisions[row].name: values[row, place].tobytes() for row in held}

    @cached_property
    def series(self) -> list[Series]:
        """The values that follow a trend: the L2 norm of each tensor, and of embeddings the median norm of a row as well."""
        found = [Series(f"{tensor}: L2 norm", self.norms[:, place]) for place, tensor in enumerate(self.tensors)]
        if not any(each.name == _ROWS for each in self._store.quantities(GROUP)):
            return found
        medians = self._store.array(GROUP, _ROWS, at={"quantile": 0.5})[:, self._large]
        values = np.where(self.measured & (medians > 0), medians, np.nan)
        by_row = [place for place, role in enumerate(self.roles) if role in _BY_ROW]
        return found + [Series(f"{self.tensors[place]}: median row norm", values[:, place]) for place in by_row]

    def stands_still(self, before: Revision, after: Revision) -> bool:
        """True if the learning rate is known to be 0 at every step from one revision to a later one of its line."""
        first, last = (each.step or 0 for each in (before, after))
        if all(self._of_steps.get(step) == 0 for step in range(first + 1, last + 1)):
            return True
        between = [each.name for each in self.revisions if each.line == after.line and first < (each.step or 0) <= last]
        return all(self._recorded[name] == 0 for name in between)

    @cached_property
    def _of_steps(self) -> Mapping[int, float]:
        return self._rates()

    @cached_property
    def _recorded(self) -> dict[str, float]:
        """The recorded learning rate by revision, NaN where there is none."""
        rates = [math.nan] * len(self.revisions)
        if _OPTIMIZER in self._store.groups and _RATE in self._store.group(_OPTIMIZER):
            rates = self._store.array(_OPTIMIZER, _RATE).tolist()
        return {each.name: rate for each, rate in zip(self.revisions, rates, strict=True)}


def _is_small(axes: tuple[str, ...]) -> bool:
    """True for one number per tensor, and for its quantiles."""
    return axes in (("tensor",), ("tensor", "quantile"))
