"""The labels of a store's arrays: its axes, and the groups of quantities that lie on them.

A `Layout` is fixed by the first checkpoint and the probe, and holds for every revision of the store. Two layouts are
compatible when `difference` is empty.

    >>> import numpy as np
    >>> from olmo_dynamics.quantities.declaration import Group, Quantity
    >>> silent = Group("silent", ("layer",), "Features that stay near zero.", (Quantity("silent_share"),))
    >>> layout = Layout({"layer": Axis("layer", np.arange(-1, 4))}, (silent,))
    >>> layout.position("layer", 2), [quantity.name for quantity in layout.quantities("silent")]
    (3, ['silent_share', 'status'])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from olmo_dynamics.errors import StoreError
from olmo_dynamics.names import PUBLISHED
from olmo_dynamics.quantities.declaration import DESCRIPTIVE, STATUS, Group, Quantity
from olmo_dynamics.store.checksums import DOCUMENT_HASH

REVISION = "revision"
"""The axis that every measured array begins with; the only one that grows."""

PROBE_AXES = ("sequence", "position")
"""The axes of the probe's token ids."""

RECORDED = "recorded"
"""The array of each group that tells which rows hold its first quantities; `recorded_2`, … those of quantities added later."""

RESERVED_ATTRIBUTES = ("title", "axes", "introduction", "coordinates", DOCUMENT_HASH)
"""Attributes that a store itself writes to each group."""

_TAKEN = frozenset(
    {REVISION, "step", "tokens", "stage", "ingredient", "seed", "line", "position_step", "position_tokens", "value"}
)
"""Columns of tables that are not measured; no quantity and no axis may have these names."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension: a label for each of its places, and further coordinates along it.

    Labels and coordinates are text, int64 or float64; labels are unique. `coordinates` tells more about each place, as
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
                    f"{name} of axis {self.name} must be a row of at least one entry, as many as labels "
                    f"(got the shape {values.shape})"
                )
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            raise StoreError(f"labels of axis {self.name} must be text or numbers (got nan)")
        if len(self._positions) != len(labels):
            raise StoreError(f"labels of axis {self.name} must be unique (got {self._twice()!r} twice)")

    def __len__(self) -> int:
        return len(self.labels)

    def position(self, label: str | int | float) -> int:
        """The index of a label.

        Raises:
            StoreError: the axis has no such label.
        """
        try:
            return self._positions[label]
        except (KeyError, TypeError):  # what cannot be hashed is no label either
            raise StoreError(f"axis {self.name} has no {label!r}; it has {_summary(self.labels)}") from None

    def difference(self, other: Axis) -> str:
        """The first difference between the two, in words; empty if there is none, or only published names differ."""
        if len(self) != len(other):
            return f"{self.name} has {len(self)} labels, not {len(other)}"
        if not np.array_equal(self.labels, other.labels):
            first = int(np.flatnonzero(self.labels != other.labels)[0])
            return f"{self.name} {first} is {_shown(self.labels[first])}, not {_shown(other.labels[first])}"
        for name in {**self.coordinates, **other.coordinates}:
            if name == PUBLISHED:
                continue
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


@dataclass(frozen=True, eq=False, init=False)
class Layout:
    """The axes of a store and its groups, by name; a group that declares no `status` is given one.

    An axis that no group uses is allowed and left out of the store.

    Raises:
        StoreError: a group lies on an axis that is not there, or a name or an attribute of it cannot be stored.
    """

    axes: Mapping[str, Axis]
    groups: Mapping[str, Group]

    def __init__(self, axes: Mapping[str, Axis], groups: Iterable[Group] | Mapping[str, Group]) -> None:
        given = groups.values() if isinstance(groups, Mapping) else groups
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "groups", {group.name: group.with_status() for group in given})
        for group in self.groups.values():
            self._check(group)

    @property
    def keys(self) -> frozenset[str]:
        """The keys `group/name` of all quantities."""
        return frozenset(quantity.key for group in self.groups.values() for quantity in group.quantities)

    def quantities(self, group: str) -> tuple[Quantity, ...]:
        """The quantities of one group, in declared order."""
        return self.groups[group].quantities

    def axis_names(self, group: str) -> tuple[str, ...]:
        """The axes that some quantity of the group lies on, beside `revision`."""
        return self.groups[group].axis_names

    def shape(self, quantity: Quantity) -> tuple[int, ...]:
        """The shape of one revision's row."""
        return tuple(len(self.axes[name]) for name in quantity.axes)

    def position(self, axis: str, label: str | int | float) -> int:
        """The index of a label on an axis.

        Raises:
            StoreError: the axis has no such label.
        """
        return self.axes[axis].position(label)

    def difference(self, other: Layout) -> str:
        """The first difference between the stores that these would make, in words; empty if there is none."""
        if tuple(self.groups) != tuple(other.groups):
            return f"it records {', '.join(self.groups)}, not {', '.join(other.groups)}"
        return self.difference_in_shared(other)

    def difference_in_shared(self, other: Layout) -> str:
        """The first difference in the axes and groups that both have, in words; empty if there is none.

        A quantity that only one of them declares is not a difference.
        """
        along = (self.axes[name].difference(other.axes[name]) for name in self._used() if name in other._used())
        declared = (_difference(self.groups[name], other.groups[name]) for name in self.groups if name in other.groups)
        return next((found for each in (along, declared) for found in each if found), "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and not self.difference(other)

    def __hash__(self) -> int:
        return hash(tuple(self.groups))

    def _used(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for group in self.groups for name in self.axis_names(group)))

    def _check(self, group: Group) -> None:
        missing = [name for name in group.axis_names if name not in self.axes]
        if missing:
            raise StoreError(
                f"group {group.name} lies on the axis {missing[0]}, which the layout does not have; add it"
            )
        labels = [name for axis in group.axis_names for name in (axis, *self.axes[axis].coordinates)]
        twice = next((name for name in labels if labels.count(name) > 1), "")
        if twice:
            raise StoreError(
                f"group {group.name} must not lie on {_axes(group.axis_names)} together: two of them have labels called "
                f"{twice}; make two groups of it"
            )
        names = [quantity.name for quantity in group.quantities]
        taken = [name for name in names if name in {*labels, *_TAKEN} or _is_mark(name)]
        taken += [name for name in group.axis_names if name in _TAKEN | {STATUS} or _is_mark(name)]
        if taken:
            raise StoreError(
                f"group {group.name} must not call a quantity or an axis {taken[0]}: "
                "labels of a store's rows have that name; choose another"
            )
        _check_attributes(group)


def _is_mark(name: str) -> bool:
    """True for `recorded`, `recorded_2`, …"""
    return name == RECORDED or (name.startswith(f"{RECORDED}_") and name.removeprefix(f"{RECORDED}_").isdigit())


def _check_attributes(group: Group) -> None:
    for name, value in group.attributes.items():
        if not isinstance(name, str):
            raise StoreError(f"attributes of group {group.name} must be named by text (got {name!r})")
        if name in RESERVED_ATTRIBUTES:
            raise StoreError(
                f"attribute {name} of group {group.name} is written by the store itself; choose another name"
            )
        if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
            raise StoreError(f"attribute {name} of group {group.name} must be text or a finite number (got {value!r})")


def _difference(mine: Group, theirs: Group) -> str:
    """The first difference in a group that both declare: its axes, its attributes, a quantity's axes, dtype or unit."""
    if mine.axes != theirs.axes:
        return f"group {mine.name} lies on {_axes(mine.axes)}, not {_axes(theirs.axes)}"
    for name in {**mine.attributes, **theirs.attributes}:
        held, given = mine.attributes.get(name), theirs.attributes.get(name)
        if held != given and name not in DESCRIPTIVE:
            return f"attribute {name} of group {mine.name} is {_or_absent(held)}, not {_or_absent(given)}"
    return next(_differing_quantities(mine, theirs), "")


def _differing_quantities(mine: Group, theirs: Group) -> Iterator[str]:
    for quantity in mine.quantities:
        if quantity.name in theirs:
            other = theirs[quantity.name]
            if quantity.axes != other.axes:
                yield f"{quantity.key} lies on {_axes(quantity.axes)}, not {_axes(other.axes)}"
            if quantity.dtype != other.dtype:
                yield f"{quantity.key} has the dtype {quantity.dtype}, not {other.dtype}"
            if quantity.unit != other.unit:
                yield f"{quantity.key} has the unit {quantity.unit}, not {other.unit}"


def _axes(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "no axis"


def _or_absent(value: str | int | float | None) -> str:
    return "absent" if value is None else str(value)


def as_text(values: np.ndarray) -> np.ndarray:
    """Text of any of NumPy's kinds as its fixed-width kind, which compares and indexes fastest."""
    return np.array(values.tolist(), dtype=np.str_)


def _plain(values: np.ndarray) -> np.ndarray:
    """Text, int64 or float64: the kinds that a store can hold and label with."""
    array = np.asarray(values)
    if array.dtype.kind in "OTU":
        return as_text(array)
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def _shown(label: np.generic) -> str:
    return repr(label.item())


def _summary(labels: np.ndarray) -> str:
    shown = [str(label) for label in labels.tolist()]
    return ", ".join(shown) if len(shown) <= 8 else f"{', '.join(shown[:4])}, … {shown[-1]}"
