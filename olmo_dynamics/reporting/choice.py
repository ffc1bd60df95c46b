"""The part of a store that a report draws: revisions by an expression, tensors by globs or roles, steps or tokens.

>>> choice = Choice(revisions="stage1:log24,main", tensors=("q_norm", "*.mlp.*"), x="tokens")
>>> choice.revisions_of(open_store("olmo2-1b.zarr"))  # doctest: +SKIP
['stage1-step0-tokens0B', …]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import polars as pl

from olmo_dynamics.checkpoints import select
from olmo_dynamics.errors import OptionError, StoreError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.plots.table import XS


@dataclass(frozen=True, slots=True)
class Choice:
    """Options of a report; the default is the whole store by step.

    Args:
        revisions: an expression as for a collection, such as `stage1:log24,stage2`; empty means every finished revision.
        tensors: globs of tensor names, or roles such as `q_norm`; empty means every tensor.
        x: `step` or `tokens`, the time axis of every chart.
    """

    revisions: str = ""
    tensors: Sequence[str] = ()
    x: str = "step"

    def __post_init__(self) -> None:
        if self.x not in XS:
            raise OptionError(f"--x must be {' or '.join(XS)} (got {self.x!r})")

    def revisions_of(self, store: RecordedStore) -> pl.DataFrame:
        """The facts about the chosen revisions among those that a store has finished, in the order of its tables.

        Raises:
            StoreError: the store holds no finished revision.
            SelectionError: the expression is invalid or matches none of them.
            OptionError: the axis shows tokens, and no chosen revision has them.
        """
        facts = store.table("revisions").filter(pl.col("revision").is_in(list(store.done)))
        if facts.is_empty():
            raise StoreError(f"{store.path} must hold at least one finished revision; run olmo-dyn collect first")
        if self.revisions:
            chosen = select([each for each in store.revisions() if each.name in store.done], self.revisions)
            facts = facts.filter(pl.col("revision").is_in([each.name for each in chosen]))
        if self.x != "step" and facts[self.x].is_null().all():
            raise OptionError(f"--x {self.x} needs revisions with {self.x} (got none); use --x step")
        return facts

    def tensors_of(self, store: RecordedStore) -> list[str] | None:
        """The chosen tensors of a store; None if every one is.

        Raises:
            OptionError: nothing in the store matches.
        """
        if not self.tensors:
            return None
        axis = store.axis("tensor") if "tensor" in _axes(store) else None
        labels = axis.labels.tolist() if axis else []
        roles = axis.coordinates["role"].tolist() if axis else []
        chosen = [
            label
            for label, role in zip(labels, roles, strict=True)
            if any(fnmatchcase(label, pattern) or role == pattern for pattern in self.tensors)
        ]
        if not chosen:
            held = ", ".join(dict.fromkeys(roles)) or "no tensors"
            raise OptionError(
                f"--tensors must match a tensor in {store.path}, by its name or role (got {','.join(self.tensors)}); "
                f"it holds {held}"
            )
        return chosen


def _axes(store: RecordedStore) -> set[str]:
    """The axes of all groups of a store."""
    return {axis for group in store.groups for quantity in store.quantities(group) for axis in quantity.axes}
