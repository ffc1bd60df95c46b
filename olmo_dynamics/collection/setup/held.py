"""A store that a collection continues: what it holds is kept, whatever the options would choose for a new one.

>>> Held.of("run.zarr") is None  # there is no store yet
True
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.files import Place, as_place, is_there
from olmo_dynamics.store import Layout, Store

ELEMENT_COUNT = "element_count"
"""The size of a tensor: a quantity of `parameters`; in older stores a coordinate, the same for all revisions."""


@dataclass(frozen=True)
class Held:
    """The settings of an existing store."""

    store: Store

    @classmethod
    def of(cls, out: str | Place | None) -> Self | None:
        """The store at a path, None if there is none.

        Raises:
            StoreError: something else is there.
        """
        place = None if out is None else as_place(out)
        return cls(Store.open(place)) if place is not None and is_there(place) else None

    @property
    def attributes(self) -> dict[str, Any]:
        """Its root attributes."""
        return self.store.attributes

    def difference(self, layout: Layout) -> str:
        """The first difference from a layout, in words; empty if there is none, or labels are damaged and will be restored."""
        try:
            return self.store.layout.difference_in_shared(layout)
        except StoreError:
            return ""

    @property
    def window(self) -> int | None:
        """The tokens of a window of its probe; None without one."""
        shape = self.attributes["probe"].get("shape")
        return int(shape[1]) if shape else None

    def fits(self, layout: Layout, probe: Mapping[str, Any]) -> bool:
        """True if measurements with a layout, and a probe as the attributes describe it, have a place in the store."""
        held, given = self.attributes["probe"].get("sha256"), probe.get("sha256")
        return (not held or not given or held == given) and not self.difference(layout)

    @property
    def sizes_along_tensor(self) -> bool:
        """True if it keeps one element count for each tensor, rather than one for each revision."""
        return "parameters" in self.store.groups and ELEMENT_COUNT not in self.store.group("parameters")

    def compute_dtype(self, asked: str) -> str:
        """Its compute dtype, if that or `auto` is asked for.

        Raises:
            StoreMismatchError: another one is asked for.
        """
        held = str(self.attributes["compute_dtype"])
        if asked not in ("auto", held):
            raise StoreMismatchError(
                f"--dtype must be {held}, in which {self.store.path} was computed (got {asked}); leave --dtype out, or "
                "collect into another store"
            )
        return held

    def completed(self, groups: Collection[str]) -> frozenset[str]:
        """The revisions of which it holds all that is asked for, as far as it has such groups."""
        asked = set(groups) & set(self.store.groups)
        return frozenset(name for name in self.store.done if asked <= self.store.recorded(name))
