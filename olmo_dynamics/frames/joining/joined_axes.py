"""The axes of several stores as one: every label once, in an order that fits each store's own.

>>> import numpy as np
>>> merged([["embed", "layer 0", "norm"], ["embed", "layer 0", "layer 1", "norm"]])
['embed', 'layer 0', 'layer 1', 'norm']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from olmo_dynamics.errors import StoreMismatchError
from olmo_dynamics.names import PUBLISHED
from olmo_dynamics.store import Axis

Label = str | int | float


def merged(lists: Iterable[Sequence[Label]]) -> list[Label]:
    """Every label once: numbers ascending, and a new text behind the one that it follows in its own list."""
    found: list[Label] = []
    for labels in lists:
        known, place = set(found), 0
        for label in labels:
            if label in known:
                place = found.index(label) + 1
            else:
                found.insert(place, label)
                known.add(label)
                place += 1
    return found if any(isinstance(label, str) for label in found) else sorted(found)


def joined_axis(axes: Sequence[Axis]) -> Axis:
    """One axis with the labels of all; a coordinate that only some have is empty, or -1, at the other labels.

    Raises:
        StoreMismatchError: two of them have different coordinates at one label.
    """
    first = axes[0]
    if all(axis is first or not first.difference(axis) for axis in axes):
        return first
    labels = merged(axis.labels.tolist() for axis in axes)
    names = dict.fromkeys(name for axis in axes for name in axis.coordinates)
    return Axis(first.name, np.array(labels), {name: _coordinate(axes, labels, name) for name in names})


def _coordinate(axes: Sequence[Axis], labels: list[Label], name: str) -> np.ndarray:
    found: dict[Label, Label] = {}
    for axis in axes:
        for label, value in zip(axis.labels.tolist(), axis.coordinates.get(name, np.array([])).tolist(), strict=False):
            if found.setdefault(label, value) != value and name != PUBLISHED:
                raise StoreMismatchError(f"the {name} of {label} along {axis.name} is {found[label]!r} and {value!r}")
    is_text = any(isinstance(value, str) for value in found.values())
    return np.array([found.get(label, "" if is_text else -1) for label in labels])


def places(axis: Axis, of: Axis) -> np.ndarray:
    """The places along `axis` of the labels of another axis, all of which it has."""
    return np.array([axis.position(label) for label in of.labels.tolist()], dtype=np.int64)
