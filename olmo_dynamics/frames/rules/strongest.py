"""The findings of a store, strongest first.

>>> print(findings(open_store("olmo2-1b.zarr")))  # doctest: +SKIP
1. Feature 137 of the residual stream stays an outlier after blocks 2 to 15 since step 10,000: …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import polars as pl

from olmo_dynamics.errors import counted
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.logs.training_logs import TrainingLogs
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.frames.rules.byte_rule import of_bytes
from olmo_dynamics.frames.rules.found_changes import change_points_in, jumps_in
from olmo_dynamics.frames.rules.found_structure import outliers_in, settling_in, spikes_in
from olmo_dynamics.frames.rules.jump_rule import LEAST_REVISIONS
from olmo_dynamics.frames.rules.search_cost import cost
from olmo_dynamics.frames.rules.searched_curves import searched_curves
from olmo_dynamics.frames.rules.store_finding import Findings, StoreFinding
from olmo_dynamics.frames.rules.watched import LineRows, lines_of, series_of

MOST_OF_A_KIND = 3
"""The number of findings of one kind that are told, but for those about bytes."""

MOST_RATE = 0.05
"""Findings by a rule with a higher false-alarm rate are not told."""


def findings(
    store: RecordedStore, *, curves: pl.DataFrame | TrainingLogs | None = None, most_bytes: int | None = None
) -> Findings:
    """Find what is striking in a store: bytes, persistent outlier features, jumps, spikes, change points, settling.

    Every finding tells its rule and the rule's false-alarm rate on a null that fits it; comparisons of bytes have none. At most
    `MOST_OF_A_KIND` of a kind are told, strongest first. The same store gives the same findings.

    Args:
        store: a store of measurements.
        curves: the training curve for spikes: what `read_logs` gives, or a table with one row per logged step: `step`, and
            `loss` or `gradient_norm` or both. By default that of the run's folder, where this package wrote the run and the
            folder is found.
        most_bytes: the most bytes of numbers to read, and of checkpoints to recognise the run's folder; what would take more is
            not searched, and the note says so. Everything is searched unless given.

    Raises:
        OptionError: the logs name other runs than the store's.
    """
    grid = Grid(store)
    lines = [line for line in lines_of(grid) if len(line.steps) > 1]
    found, left_out = _of_numbers(grid, lines, most_bytes)
    for run, rows in searched_curves(store, curves, most_bytes=most_bytes):
        found += _strongest(spikes_in(rows, run))
    longest = max((len(line.steps) for line in lines_of(grid)), default=0)
    note = " ".join(filter(None, (_note(longest), left_out)))
    return Findings(tuple(sorted(found, key=lambda each: -each.strength)), note)


def _of_numbers(grid: Grid, lines: list[LineRows], most_bytes: int | None) -> tuple[list[StoreFinding], str]:
    """The findings in the recorded numbers, and the words for what is not searched."""
    found: list[StoreFinding] = list(of_bytes(grid))
    needed, left_out = cost(grid), []
    if lines and (most_bytes is None or 2 * needed.series <= most_bytes):  # for jumps and for change points
        every = list(series_of(grid, lines))
        for kind in (jumps_in(every), change_points_in(every), settling_in(grid, lines)):
            found += _strongest(kind)
    elif lines:
        left_out.append(f"jumps, change points and settling, which would read {needed.series / 1e6:,.0f} MB")
    if lines and (most_bytes is None or needed.features <= most_bytes):
        found += _strongest(outliers_in(grid, lines))
    elif lines:
        left_out.append(f"outlier features, which would read {needed.features / 1e6:,.0f} MB")
    return found, f"Not searched: {'; '.join(left_out)}." if left_out else ""


def _strongest(found: Iterable[StoreFinding]) -> list[StoreFinding]:
    """The strongest findings of one kind, one for each quantity first."""
    ordered = sorted((each for each in found if each.false_alarm_rate <= MOST_RATE), key=lambda each: -each.strength)
    seen: Counter[str] = Counter()
    ranked = []
    for each in ordered:
        seen[each.quantity] += 1
        ranked.append((seen[each.quantity], each))
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])][:MOST_OF_A_KIND]


def _note(longest: int) -> str:
    """The kinds of findings for which a store has too few revisions."""
    if longest < 2:
        return f"Changes over training need at least 2 revisions with a step on one line (got {longest})."
    if longest < LEAST_REVISIONS:
        had = counted(longest, "revision")
        return f"Jumps need at least {LEAST_REVISIONS} revisions on one line; the longest line here has {had}."
    return ""
