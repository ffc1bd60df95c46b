"""Averages over domains.

>>> macro_average(store.table("loss")).select("step", "cross_entropy")  # doctest: +SKIP
"""

from __future__ import annotations

import polars as pl

from olmo_dynamics.frames.grid import LEADING, RUN_LABELS

MACRO_AVERAGE = "macro average"


def macro_average(loss_table: pl.DataFrame) -> pl.DataFrame:
    """Average every real-valued column over domains, with equal weights (Paloma); one row per revision.

    The mean is null if a revision lacks a domain that others have, because it would be over other text. `domain` is
    `macro average`, so the rows can be stacked under the table's own.
    """
    domains = loss_table["domain"].n_unique()
    leading = [name for name in (*LEADING, *RUN_LABELS) if name in loss_table.columns]
    real = [name for name, dtype in loss_table.schema.items() if dtype.is_float()]
    means = (pl.when(pl.len() == domains).then(pl.col(name).mean()).alias(name) for name in real)
    averaged = loss_table.group_by(leading, maintain_order=True).agg(*means)
    return averaged.select(*leading, pl.lit(MACRO_AVERAGE).alias("domain"), *real)
