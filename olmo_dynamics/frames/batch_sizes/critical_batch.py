"""The critical batch size of each revision, from branches at several batch sizes (arXiv:2505.23971).

    >>> branches = pl.DataFrame({"revision": ["a"] * 3, "step": [0] * 3, "tokens": [0] * 3, "multiplier": [1.0, 2.0, 4.0],
    ...                          "sequences": [8, 16, 32], "batch_tokens": [512, 1024, 2048], "loss": [3.0, 3.005, 3.2]})
    >>> critical_batch_sizes(branches).select("low", "high", "multiplier").rows()
    [(1024, 2048, 2.0)]

A larger batch takes fewer updates on the same tokens. Below the critical size that costs nothing; above it the loss is higher.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.quantities import remember
from olmo_dynamics.quantities.declaration import Group, Quantity

Rule = Literal["max", "first_failure"]

TOLERANCE = 0.01
"""The loss, in nats per token, by which a larger batch may be worse and still count as equal."""

_PAPER = "Merrill et al. 2025, critical batch size revisited, arXiv:2505.23971"
_NEEDED = ("revision", "step", "tokens", "multiplier", "batch_tokens", "loss")

CRITICAL_BATCH = Group(
    "critical_batch",
    ("multiplier",),
    "Losses of branches at several batch sizes, and the critical batch size.",
    (
        Quantity("batch_tokens", long_name="batch size", formula="sequences × tokens of a sequence", unit="token", dtype="int64",
                 source=_PAPER),
        Quantity("low", axes=(), long_name="largest batch that costs no loss", formula="k* B", unit="token", dtype="int64",
                 source=_PAPER),
        Quantity("high", axes=(), long_name="next larger batch that was tested", formula="B of the next k", unit="token",
                 dtype="int64", source=_PAPER),
        Quantity("critical_batch", axes=(), long_name="critical batch size", formula="sqrt(low × high)", unit="token",
                 source=_PAPER, note="the geometric mean of the interval's ends"),
    ),
)  # fmt: skip
"""The quantities of the tables of `od.critical_batch` and of `critical_batch_sizes`."""


def critical_batch_sizes(
    branches: pl.DataFrame, *, rule: Rule = "max", tolerance: float = TOLERANCE, loss: str = "loss"
) -> pl.DataFrame:
    """The critical batch size of each revision, as the interval between the largest sufficient batch and the next one tested.

    A multiplier k is sufficient if L_k ≤ L_j + tolerance for every tested j < k; the smallest always is. k* is the largest
    sufficient one (`rule="max"`, the paper's), or the last before one fails (`rule="first_failure"`): losses need not rise
    steadily, so the two can differ; draw the curves.

    Args:
        branches: the table of `od.critical_batch`.
        rule: "max" or "first_failure".
        tolerance: nats per token.
        loss: the column to compare: `loss`, `training_loss` or `held_out_loss`.

    Returns:
        One row per revision: `revision`, `step`, `tokens`, `multiplier` (k*), `low` (k* B), `high` (the next tested batch; null
        if k* is the largest tested) and `critical_batch`, their geometric mean (null with `high`), in tokens.

    Raises:
        OptionError: a column is missing, the rule is unknown, or the tolerance is below 0.
    """
    if rule not in get_args(Rule):
        raise OptionError(f"rule must be {' or '.join(get_args(Rule))} (got {rule!r})")
    if not tolerance >= 0:
        raise OptionError(f"tolerance must be at least 0 nats per token (got {tolerance})")
    for column in {*_NEEDED, loss} - set(branches.columns):
        raise OptionError(f"the table of branches must have a column {column!r} (got {', '.join(branches.columns)})")
    remember(CRITICAL_BATCH)
    rows = [
        _of_revision(part, rule, tolerance, loss) for part in branches.partition_by("revision", maintain_order=True)
    ]
    types = {"tokens": pl.Int64, "high": pl.Int64, "critical_batch": pl.Float64}
    return pl.DataFrame(rows, schema_overrides=types)


def sufficient(losses: list[float], tolerance: float) -> list[bool]:
    """True for each loss that exceeds none of those before it by more than the tolerance.

    >>> sufficient([3.0, 3.005, 3.02, 2.9], 0.01)
    [True, True, False, True]
    """
    lowest, found = math.inf, []
    for loss in losses:
        found.append(loss <= lowest + tolerance)
        lowest = min(lowest, loss)
    return found


def _of_revision(part: pl.DataFrame, rule: Rule, tolerance: float, loss: str) -> dict[str, object]:
    known = part.filter(pl.col(loss).is_finite()).sort("batch_tokens")
    if known.is_empty():
        raise OptionError(f"{part['revision'][0]} must have a branch with a finite {loss} (got none)")
    enough = sufficient(known[loss].to_list(), tolerance)
    failing = enough.index(False) if False in enough else len(enough)
    best = failing - 1 if rule == "first_failure" else max(place for place, holds in enumerate(enough) if holds)
    sizes = known["batch_tokens"].to_list()
    high = sizes[best + 1] if best + 1 < len(sizes) else None
    return {
        **{name: part[name][0] for name in ("revision", "step", "tokens")},
        "multiplier": known["multiplier"][best],
        "low": sizes[best],
        "high": high,
        "critical_batch": math.sqrt(sizes[best] * high) if high is not None else None,
    }
