"""The numbers of a group that a revision has one of, such as a total gradient norm, as columns of one table.

>>> per_revision(open_store("run.zarr"), "induction").select("step", "first_half_loss")  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import Grid, numbers
from olmo_dynamics.quantities import remember
from olmo_dynamics.quantities.declaration import STATUS, Status
from olmo_dynamics.store import Store


def per_revision(store: Store, group: str) -> pl.DataFrame:
    """One row per revision in which the group was measured, one column for each of its quantities that has no axis.

    Raises:
        OptionError: the store has no such group, or the group has no quantity without an axis.
    """
    if group not in store.groups:
        raise OptionError(f"{store.path} has no group {group}; it has {', '.join(store.groups)}")
    declared = [each for each in store.quantities(group) if not each.axes and each.name != STATUS]
    if not declared:
        raise OptionError(f"{group} has no quantity with one number per revision")
    remember(store.group(group))
    grid = Grid(store)
    kept = ~np.isin(grid.status(group, ()), (Status.NOT_MEASURED, Status.ABSENT))
    return grid.rows((), kept).with_columns(
        *(numbers(each.name, grid.array(group, each.name)[kept]) for each in declared)
    )
