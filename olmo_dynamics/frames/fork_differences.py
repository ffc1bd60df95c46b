"""The differences of forks to the unchanged parent, step by step: what a change did, without what both have in common.

>>> fork_differences(od.forest("run", "forks/hot", "forks/anneal"), "loss")  # doctest: +SKIP
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.lineage import Forest

UNCHANGED = "unchanged"
_SHARE = 25  # a mean over so small a share of a fork's steps, at least three


def fork_names(found: Forest) -> dict[str, str]:
    """Each fork's name by what was changed, with the folder's name where two were changed alike."""
    told = {run: found.lines[run].overrides or UNCHANGED for run in found.parents}
    often = Counter(told.values())
    return {run: words if often[words] == 1 else f"{words} ({run})" for run, words in told.items()}


def fork_differences(found: Forest, quantity: str) -> pl.DataFrame:
    """A metric of each changed fork less that of the unchanged run at the same step.

    The unchanged run is a fork from the same step without overrides, where there is one with the steps of the fork, or else the
    parent. Runs that see the same batches share most of the noise of a batch, which the difference is free of.

    Returns:
        One row per fork and step that both have: `fork` (what was changed), `run`, `against`, `step`, `tokens`, `difference`, and
        `smoothed`, the mean over neighbouring steps, a 25th of the fork on the whole.

    Raises:
        OptionError: no fork shares a step with an unchanged run.
    """
    rows = found.metrics()
    if quantity not in rows.columns:
        raise OptionError(f"the metrics must have a column {quantity!r} (got {', '.join(rows.columns)})")
    finite = rows.filter(pl.col(quantity).is_finite())
    parts = []
    for run, words in fork_names(found).items():
        against = _unchanged(found, finite, run)
        if against:
            parts.append(_less(finite, run, against, quantity, words))
    kept = [part for part in parts if not part.is_empty()]
    if not kept:
        raise OptionError("a difference needs steps that a fork and an unchanged run have in common (got none)")
    return pl.concat(kept)


def _unchanged(found: Forest, rows: pl.DataFrame, run: str) -> str:
    """The unchanged fork from the same step, or else the parent; empty if neither shares a later step with the fork."""
    line, parent = found.lines[run], found.parents[run]
    start = line.origin.get("step")
    own = set(rows.filter(pl.col("run") == run, pl.col("step") > start)["step"])
    twins = [
        other for other, its in found.parents.items()
        if other != run and its == parent and found.lines[other].origin.get("step") == start
        and not found.lines[other].overrides
    ]  # fmt: skip
    if not line.overrides:
        twins = []
    return next((each for each in (*twins, parent) if own & set(rows.filter(pl.col("run") == each)["step"])), "")


def _less(rows: pl.DataFrame, run: str, against: str, quantity: str, words: str) -> pl.DataFrame:
    own, other = (rows.filter(pl.col("run") == each).unique("step", keep="first") for each in (run, against))
    both = own.join(other.select("step", pl.col(quantity).alias("its")), on="step").sort("step")
    width = max(3, both.height // _SHARE)
    return both.select(
        pl.lit(words).alias("fork"), pl.lit(run).alias("run"), pl.lit(against).alias("against"), "step", "tokens",
        (pl.col(quantity) - pl.col("its")).alias("difference"),
    ).with_columns(
        pl.col("difference").rolling_mean(window_size=width, min_samples=1, center=True).alias("smoothed")
    )  # fmt: skip
