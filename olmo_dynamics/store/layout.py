"""What a store's arrays are labelled with: its axes and the groups that lie on them.

A `Layout` is settled once, from the first checkpoint and the probe, and holds for every revision of the store. Two
layouts are compatible when `difference` is empty.

    >>> layout = Layout({"layer": Axis("layer", np.arange(-1, 4)), "site": Axis("site", np.array(["q", "k"]))}, ())
    >>> layout.position("layer", 2), layout.position("site", "k")
    (3, 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from olmo_dynamics import quantities
from olmo_dynamics.errors import StoreError
from olmo_dynamics.names import Quantity

REVISION = "revision"
"""The axis that every measured array begins with; the only one that grows."""

PROBE_AXES = ("sequence", "position")
"""The axes of the probe's token ids."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension: a label for each of its places, and further coordinates along it.

    Labels and coordinates are text, int64 or float64; labels are unique. `coordinates` says more about each place, as
    `layer` and `role` do along `tensor`.
    """

    name: str
    labels: np.ndarray
    coordinates: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = _plain(self.labels)
        coordinates = {name: _plain(values) for name, values in self.coordinates.items()}
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "coordinates", coordinates)
        for name, values in {"labels": labels, **coordinates}.items():
            if values.shape != (len(labels),) or not len(labels):
                raise StoreError(
                    f"axis {self.name} wants one row of at least one label; its {name} have the shape {values.shape}"
                )
        if len(self._positions) != len(labels):
            raise StoreError(f"axis {self.name} wants a label once; {self._twice()!r} comes twice")

    def __len__(self) -> int:
        return len(self.labels)

    def position(self, label: str | int | float) -> int:
        """Where a label stands.

        Raises:
            StoreError: the axis has no such label.
        """
        try:
            return self._positions[label]
        except KeyError:
            raise StoreError(f"axis {self.name} has no {label!r}; it has {_summary(self.labels)}") from None

    def difference(self, other: Axis) -> str:
        """What sets the two apart, in words; empty where nothing does."""
        if len(self) != len(other):
            return f"{self.name} has {len(self)} labels, not {len(other)}"
        if not np.array_equal(self.labels, other.labels):
            first = int(np.flatnonzero(self.labels != other.labels)[0])
            return f"{self.name} {first} is {_shown(self.labels[first])}, not {_shown(other.labels[first])}"
        for name in {**self.coordinates, **other.coordinates}:
            mine, theirs = self.coordinates.get(name), other.coordinates.get(name)
            if mine is None or theirs is None or not np.array_equal(mine, theirs):
                return f"the {name} along {self.name} differs"
        return ""

    @cached_property
    def _positions(self) -> dict[str | int | float, int]:
        return {label: place for place, label in enumerate(self.labels.tolist())}

    def _twice(self) -> str | int | float:
        values, counts = np.unique(self.labels, return_counts=True)
        twice: list[str | int | float] = values[counts > 1].tolist()
        return twice[0]


@dataclass(frozen=True, eq=False)
class Layout:
    """The axes of a store and its groups of measured numbers.

    An axis that no group uses is allowed and left out of the store.
    """

    axes: Mapping[str, Axis]
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        unknown = [group for group in self.groups if group not in quantities.GROUPS]
        if unknown:
            raise StoreError(f"no group is called {unknown[0]}; there are {', '.join(quantities.GROUPS)}")
        for group in self.groups:
            missing = [name for name in self.axis_names(group) if name not in self.axes]
            if missing:
                raise StoreError(f"group {group} lies on the axis {missing[0]}, which the layout does not have; add it")

    def quantities(self, group: str) -> tuple[Quantity, ...]:
        """The quantities of one group, in declared order."""
        return quantities.of_group(group)

    def axis_names(self, group: str) -> tuple[str, ...]:
        """The axes that some quantity of the group lies on, beside `revision`."""
        return tuple(dict.fromkeys(name for quantity in quantities.of_group(group) for name in quantity.axes))

    def shape(self, quantity: Quantity) -> tuple[int, ...]:
        """The shape of one revision's row."""
        return tuple(len(self.axes[name]) for name in quantity.axes)

    def position(self, axis: str, label: str | int | float) -> int:
        """Where a label stands on an axis.

        Raises:
            StoreError: the axis has no such label.
        """
        return self.axes[axis].position(label)

    def difference(self, other: Layout) -> str:
        """What sets the stores apart that these would make, in words; empty where nothing does."""
        if self.groups != other.groups:
            return f"it records {', '.join(self.groups)}, not {', '.join(other.groups)}"
        return self.difference_along_shared(other)

    def difference_along_shared(self, other: Layout) -> str:
        """What sets the axes apart that both use, in words; empty where nothing does."""
        shared = (name for name in self._used() if name in other._used())
        differences = (self.axes[name].difference(other.axes[name]) for name in shared)
        return next((found for found in differences if found), "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and not self.difference(other)

    def __hash__(self) -> int:
        return hash(self.groups)

    def _used(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for group in self.groups for name in self.axis_names(group)))


def as_text(values: np.ndarray) -> np.ndarray:
    """Text of any of NumPy's kinds as its fixed-width kind, which compares and indexes fastest."""
    return np.array(values.tolist(), dtype=np.str_)


def _plain(values: np.ndarray) -> np.ndarray:
    """Text, int64 or float64: what a store can hold and label with."""
    array = np.asarray(values)
    if array.dtype.kind in "OTU":
        return as_text(array)
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def _shown(label: np.generic) -> str:
    return repr(label.item())


def _summary(labels: np.ndarray) -> str:
    shown = [str(label) for label in labels.tolist()]
    return ", ".join(shown) if len(shown) <= 8 else f"{', '.join(shown[:4])}, … {shown[-1]}"
