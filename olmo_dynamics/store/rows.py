"""One revision's records, laid into one row an array.

>>> dict(lay(records, layout, ("parameters",)))["parameters/rms"].shape  # doctest: +SKIP
(147,)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreError
from olmo_dynamics.names import Quantity, Record
from olmo_dynamics.store.layout import Layout

_FILLS: dict[str, float | int] = {"float64": np.nan, "float32": np.nan, "int64": -1, "int16": -1, "uint8": 0}


def lay(records: Iterable[Record], layout: Layout, groups: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The row of every quantity of some groups, each group's status last; fill where no record says otherwise.

    Keys are `group/name`. Records of the layout's other groups are passed over.

    Raises:
        StoreError: a record has no place in the layout.
    """
    by_quantity: dict[str, list[Record]] = {}
    for record in records:
        by_quantity.setdefault(record.quantity.key, []).append(record)
    places = {quantity.key: quantity for group in layout.groups for quantity in layout.quantities(group)}
    strangers = [key for key in by_quantity if key not in places]
    if strangers:
        raise StoreError(
            f"a record of {strangers[0]} came to a store of {', '.join(layout.groups)}; record that group too"
        )
    for key, quantity in sorted(places.items(), key=lambda item: item[1].name == "status"):
        if quantity.group in groups:
            yield key, _row(quantity, by_quantity.get(key, []), layout)


def _row(quantity: Quantity, records: list[Record], layout: Layout) -> np.ndarray:
    row = np.full(layout.shape(quantity), _FILLS[quantity.dtype], dtype=quantity.dtype)
    for record in records:
        place = _place(record, layout)
        values = np.asarray(record.values)
        if values.shape != row[place].shape:
            raise StoreError(
                f"a record of {quantity.key} at {record.at} wants the shape {row[place].shape}; it has {values.shape}"
            )
        row[place] = values
    return row


def _place(record: Record, layout: Layout) -> tuple[Any, ...]:
    axes = record.quantity.axes
    strange = [name for name in record.at if name not in axes]
    if strange:
        raise StoreError(
            f"{record.quantity.key} lies on {', '.join(axes) or 'no axis'}; a record of it names {strange[0]}"
        )
    return tuple(layout.position(name, record.at[name]) if name in record.at else slice(None) for name in axes)
