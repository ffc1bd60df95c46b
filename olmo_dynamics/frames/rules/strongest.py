"""The findings of a store, strongest first.

>>> print(findings(open_store("olmo2-1b.zarr")))  # doctest: +SKIP
1. Feature 137 of the residual stream stays an outlier after blocks 2 to 15 since step 10,000: …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import polars as pl

from olmo_dynamics.errors import OlmoDynamicsError, counted
from olmo_dynamics.frames.curves import metrics
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.joining.joined_store import JoinedStore
from olmo_dynamics.frames.lineage import run_folder
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.frames.rules.byte_rule import of_bytes
from olmo_dynamics.frames.rules.found_changes import change_points_in, jumps_in
from olmo_dynamics.frames.rules.found_structure import outliers_in, settling_in, spikes_in
from olmo_dynamics.frames.rules.jump_rule import LEAST_REVISIONS
from olmo_dynamics.frames.rules.store_finding import Findings, StoreFinding
from olmo_dynamics.frames.rules.watched import lines_of, series_of

MOST_OF_A_KIND = 3
"""The number of findings of one kind that are told, but for those about bytes."""

MOST_RATE = 0.05
"""Findings by a rule with a higher false-alarm rate are not told."""


def findings(store: RecordedStore, *, curves: pl.DataFrame | None = None) -> Findings:
    """Find what is striking in a store: bytes, persistent outlier features, jumps, spikes, change points, settling.

    Every finding tells its rule and the rule's false-alarm rate on a null that fits it; comparisons of bytes have none. At most
    `MOST_OF_A_KIND` of a kind are told, strongest first. The same store gives the same findings.

    Args:
        store: a store of measurements.
        curves: the training curve for spikes, one row per update: `step`, and `loss` or `gradient_norm` or both. By default that
            of the run's folder, where this package wrote the run and the folder is found.
    """
    grid = Grid(store)
    lines = [line for line in lines_of(grid) if len(line.steps) > 1]
    found: list[StoreFinding] = list(of_bytes(grid))
    if lines:
        every = list(series_of(grid, lines))
        for kind in (outliers_in(grid, lines), jumps_in(every), change_points_in(every), settling_in(grid, lines)):
            found += _strongest(kind)
    rows = _curves(store) if curves is None else curves
    if rows is not None:
        found += _strongest(spikes_in(rows))
    longest = max((len(line.steps) for line in lines_of(grid)), default=0)
    return Findings(tuple(sorted(found, key=lambda each: -each.strength)), _note(longest))


def _strongest(found: Iterable[StoreFinding]) -> list[StoreFinding]:
    """The strongest findings of one kind, one for each quantity first."""
    ordered = sorted((each for each in found if each.false_alarm_rate <= MOST_RATE), key=lambda each: -each.strength)
    seen: Counter[str] = Counter()
    ranked = []
    for each in ordered:
        seen[each.quantity] += 1
        ranked.append((seen[each.quantity], each))
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])][:MOST_OF_A_KIND]


def _curves(store: RecordedStore) -> pl.DataFrame | None:
    """The training curve of the store's run, where its folder is found."""
    if isinstance(store, JoinedStore):
        return None
    try:
        folder = run_folder(store)
        return None if folder is None else metrics(folder)
    except (OlmoDynamicsError, OSError):
        return None


def _note(longest: int) -> str:
    """The kinds of findings for which a store has too few revisions."""
    if longest < 2:
        return f"Changes over training need at least 2 revisions with a step on one line (got {longest})."
    if longest < LEAST_REVISIONS:
        had = counted(longest, "revision")
        return f"Jumps need at least {LEAST_REVISIONS} revisions on one line; the longest line here has {had}."
    return ""
