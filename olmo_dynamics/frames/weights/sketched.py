"""Sketches of a store as numbers.

>>> sketches = Sketches(open_store("run.zarr"))  # doctest: +SKIP
>>> first, last = sketches.of("step0"), sketches.of("step1000")  # doctest: +SKIP
>>> estimates(first.values, last.values, last.spread)["distance"]  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int64

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.weights.estimates import Matrix, PerTensor, spread
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.store import Store

SKETCHES = "sketches"

_FACTS = ("seed", "size", "scheme")

Facts = Mapping[str, object]
"""Attributes of a group that say how its sketches were made."""


class Sketched(NamedTuple):
    """The sketches of one revision: `values` [tensor, component] in float64, and the number of elements of each tensor.

    Of a tensor without a sketch that number is -1.
    """

    values: Matrix
    counts: Int64[np.ndarray, " tensor"]
    dtype: str = ""  # of the weights as published, such as BF16

    @property
    def spread(self) -> PerTensor:
        """The variance of an estimate over that of independent elements; 0 where the sketch is the tensor."""
        return spread(self.counts, self.values.shape[1])

    def at(self, places: np.ndarray) -> Sketched:
        """The sketches of some tensors, by place or by truth."""
        return Sketched(self.values[places], self.counts[places], self.dtype)


def require_store(store: object) -> None:
    """Check that a store was opened.

    Raises:
        OptionError: it is something else, such as a path.
    """
    if not isinstance(store, Store):
        raise OptionError(f"a store must be opened with od.open_store (got {store!r})")


class Sketches:
    """The sketches of a store's revisions.

    Attributes:
        tensors: names, in the store's order.
        labels: a table of the tensors, with layer and role.

    Raises:
        OptionError: it is no opened store, or has no sketches.
    """

    def __init__(self, store: Store) -> None:
        require_store(store)
        if SKETCHES not in store.groups:
            raise OptionError(
                f"{store.path} must have the group {SKETCHES}; collect it with --record {SKETCHES}, beside others"
            )
        self.store = store
        self.facts = {name: store.group(SKETCHES).attributes.get(name) for name in _FACTS}
        axis = store.axis("tensor")
        self.tensors = [str(name) for name in axis.labels]
        layer = pl.Series("layer", axis.coordinates["layer"])
        role = pl.Series("role", [str(each) for each in axis.coordinates["role"]])
        self.labels = pl.DataFrame([pl.Series("tensor", self.tensors), layer.set(layer == -1, None), role])
        rows = store.arrays("revisions")
        self._dtypes = dict(zip(rows["revision"].tolist(), rows["dtype"].tolist(), strict=True))

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
        held = np.isin(row["status"], (Status.MEASURED, Status.NONFINITE))
        values = row["sketch"].astype(np.float64)
        return Sketched(values, np.where(held, row["element_count"], -1), self._dtypes.get(revision, ""))

    def placed(self, revision: str, tensors: Sequence[str]) -> Sketched:
        """The sketches of one revision, of the named tensors in their order; without numbers where the store lacks one."""
        place_of = {name: place for place, name in enumerate(self.tensors)}
        places = np.array([place_of.get(name, -1) for name in tensors], dtype=np.int64)
        found = self.of(revision).at(places)
        found.counts[places < 0] = -1
        return found

    def check_comparable(self, other: Sketches) -> None:
        """Check that the sketches of two stores can be subtracted.

        Raises:
            OptionError: they were made with another size or seed.
        """
        require_same_facts(self.store, self.facts, other.store, other.facts)


def require_same_facts(store: Store, facts: Facts, other: Store, other_facts: Facts) -> None:
    """Check that the sketches of two stores were made in one way.

    Raises:
        OptionError: a fact, such as the size or the seed, differs.
    """
    for name, mine in facts.items():
        if other_facts[name] != mine:
            raise OptionError(
                f"sketches must have one {name} to be compared ({store.path}: {mine}, {other.path}: {other_facts[name]}); "
                "collect one of the stores again"
            )
