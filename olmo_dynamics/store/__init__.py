"""Stores: measurements of many revisions in one Zarr folder that xarray opens without this package.

>>> store = Store.open("olmo2-1b.zarr")  # doctest: +SKIP
>>> store.done  # doctest: +SKIP
"""

from olmo_dynamics.store.checking import Check, Damage
from olmo_dynamics.store.layout import Axis, Layout
from olmo_dynamics.store.store import Store

__all__ = ["Axis", "Check", "Damage", "Layout", "Store"]


def __dir__() -> list[str]:
    return sorted(__all__)
