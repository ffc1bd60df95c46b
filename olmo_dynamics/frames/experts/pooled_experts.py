"""The experts of a layer pooled, as if their tensors of one role were one tensor.

>>> pooled = pool_experts(store.table("parameters"))  # doctest: +SKIP
>>> pooled.filter(role="gate_proj", layer=0)["tensor"].unique().to_list()  # doctest: +SKIP
['model.layers.0.mlp.experts.*.gate_proj.weight']
"""

from __future__ import annotations

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import LEADING, RUN_LABELS, STATUS_WORDS
from olmo_dynamics.quantities.declaration import Status

_NEEDED = ("expert", "tensor", "layer", "role")
_COUNTS = ("element_count", "zero_count", "nan_count", "inf_count")
_N = pl.col("element_count")
_EACH = r"(^|\.)experts\.\d+\."
_ALL = "${1}experts.*."


def pool_experts(parameters: pl.DataFrame) -> pl.DataFrame:
    """Pool the experts of each layer in the table `parameters` into one row; other rows are unchanged.

    Quantities that follow exactly from the parts are pooled: counts and element_count are summed, l2_norm in squares; rms,
    mean, abs_mean and std are those of all elements; min, max and abs_max are the outermost; norm_sparsity follows from
    them. Others (quantiles, medians, kurtosis, and quantities derived from them) are null in a pooled row. The column
    `expert` is dropped.

    Raises:
        OptionError: the table has no column `expert`, `tensor`, `layer` or `role`.
    """
    absent = [name for name in _NEEDED if name not in parameters.columns]
    if absent:
        raise OptionError(
            f"pool_experts() needs the table parameters; the column {absent[0]} is missing from "
            f"{', '.join(parameters.columns)}"
        )
    if parameters["expert"].is_null().all():
        return parameters.drop("expert")
    alone = parameters.with_row_index("row").filter(pl.col("expert").is_null())
    parts = parameters.with_row_index("row").filter(pl.col("expert").is_not_null())
    keys = [*(name for name in (*LEADING, *RUN_LABELS) if name in parts.columns), "tensor", "layer", "role"]
    named = parts.with_columns(pl.col("tensor").str.replace(_EACH, _ALL))
    pooled = named.group_by(keys, maintain_order=True).agg(pl.col("row").min(), *_wholes(set(parts.columns)))
    both = pl.concat([alone, pooled], how="diagonal")
    return both.sort("row").select(name for name in parameters.columns if name != "expert")


def _wholes(columns: set[str]) -> list[pl.Expr]:
    """The pooled quantities among the table's columns, as aggregations of its columns."""
    size = _N.sum()
    l2_norm = (pl.col("l2_norm") ** 2).sum().sqrt()
    mean = (_N * pl.col("mean")).sum() / size
    abs_sum = (_N * pl.col("abs_mean")).sum()
    spread = _N * (pl.col("std") ** 2 + (pl.col("mean") - mean) ** 2)
    wholes = {
        **{name: pl.col(name).sum() for name in _COUNTS},
        "l2_norm": l2_norm,
        "rms": ((_N * pl.col("rms") ** 2).sum() / size).sqrt(),
        "mean": mean,
        "std": (spread.sum() / size).sqrt(),
        "min": pl.col("min").nan_min(),
        "max": pl.col("max").nan_max(),
        "abs_max": pl.col("abs_max").nan_max(),
        "abs_mean": abs_sum / size,
        "norm_sparsity": size.sqrt() * l2_norm / abs_sum,
        "status": _status(),
    }
    possible = ((name, whole) for name, whole in wholes.items() if {name, *whole.meta.root_names()} <= columns)
    return [whole.alias(name) for name, whole in possible]


def _status() -> pl.Expr:
    """The status of the pooled tensor: a part of zeros is degenerate by itself, but does not affect the pooled ratios."""
    nonfinite = (pl.col("status") == STATUS_WORDS[Status.NONFINITE]).any()
    excluded = (pl.col("status") == STATUS_WORDS[Status.EXCLUDED]).any()
    of_excluded = pl.when(excluded).then(pl.lit(STATUS_WORDS[Status.EXCLUDED]))
    words = of_excluded.when(nonfinite).then(pl.lit(STATUS_WORDS[Status.NONFINITE]))
    zeros = words.when(pl.col("abs_max").nan_max() == 0).then(pl.lit(STATUS_WORDS[Status.DEGENERATE]))
    return zeros.otherwise(pl.lit(STATUS_WORDS[Status.MEASURED]))
