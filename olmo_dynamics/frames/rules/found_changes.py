"""Findings of change over training: jumps and change points of the watched quantities, with the seeds that agree.

>>> [each.sentence for each in jumps_in(list(series_of(grid, lines_of(grid))))]  # doctest: +SKIP
['The loss (domain prose) rises from 2.31 to 4.87 between steps 7,000 and 8,000, 75 times the usual change …']
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from olmo_dynamics.frames.rules import jump_rule, pace_rule
from olmo_dynamics.frames.rules.step_changes import moving, scaled
from olmo_dynamics.frames.rules.store_finding import StoreFinding
from olmo_dynamics.frames.rules.watched import WatchedSeries

_MOST_RATE = 0.05  # of a jump's rule on its own series' shuffled changes


def jumps_in(every: Sequence[WatchedSeries]) -> Iterator[StoreFinding]:
    """The greatest jump of each quantity on each line, where its rule finds one."""
    tests = sum(jump_rule.count_changes(*series.values.shape) for series in every)
    for series in every:
        scale = scaled(series.values)
        found = jump_rule.find_jumps(series.line.steps, np.where(moving(scale), scale, 0.0), tests=tests)
        if found:
            ratio, place, cell = found[0]
            rate = jump_rule.shuffled_rate(series.line.steps, scale[:, cell], tests=tests)
            if rate <= _MOST_RATE:
                also = sum(at == place for _, at, _ in found) - 1
                yield _jump(
                    series, place, cell, (ratio, jump_rule.threshold(tests), max(rate, jump_rule.FALSE_ALARMS)), also
                )


def _jump(
    series: WatchedSeries, place: int, cell: int, strength: tuple[float, float, float], also: int
) -> StoreFinding:
    ratio, limit, rate = strength
    before, after = series.values[place, cell], series.values[place + 1, cell]
    where, steps = series.cells[cell], series.line.steps
    more = f"; so {'does 1 other' if also == 1 else f'do {also} others'} of {len(series.cells)}" if also else ""
    sentence = (
        f"{_subject(series, where)} {'rises' if after > before else 'falls'} from {before:,.4g} to {after:,.4g} between steps "
        f"{steps[place]:,} and {steps[place + 1]:,}{_of(series)}, {ratio:,.3g} times as much as it usually changes around "
        f"there{more}."
    )
    rule = (
        f"a change at least {limit:.3g} times the fifth smallest of the {jump_rule.NEAR} nearest changes, per step and per log "
        f"step, and at least {jump_rule.LEAST:.0%}; null: the line's other changes, shuffled, and independent changes with "
        "tails up to those of Student's t of 4 degrees of freedom"
    )
    return StoreFinding("jump", sentence, series.key, where, series.line.line, series.line.names[place + 1],
                        int(steps[place + 1]), float(after), rule, rate, ratio / limit)  # fmt: skip


def change_points_in(every: Sequence[WatchedSeries]) -> Iterator[StoreFinding]:
    """The change point of each quantity's median over its cells, once for all seeds of a line."""
    medians = [(series, np.median(series.values, axis=1)) for series in every]
    tested = [(series, middle, *_change_point(series, middle)) for series, middle in medians]
    families: dict[tuple[str, str], list[tuple[WatchedSeries, np.ndarray, int, float]]] = defaultdict(list)
    for each in tested:
        families[each[0].key, each[0].line.family].append(each)
    limit = pace_rule.FALSE_ALARMS / max(1, len(tested))
    for members in families.values():
        series, middle, place, chance = min(members, key=lambda each: each[3])
        if chance <= limit:
            agreeing = sum(_agrees(series.line.steps, place, *each[::2], each[3]) for each in members)
            yield _paced(series, middle, place, np.log(chance) / np.log(limit), (agreeing, len(members)))


def _change_point(series: WatchedSeries, middle: np.ndarray) -> tuple[int, float]:
    scale = scaled(middle[:, np.newaxis])
    return pace_rule.find_change_point(series.line.steps, scale[:, 0]) if moving(scale)[0] else (0, 1.0)


def _agrees(steps: np.ndarray, place: int, other: WatchedSeries, at: int, chance: float) -> bool:
    """True if another seed has its change point within one revision of this one."""
    near = steps[max(0, place - 1)] <= other.line.steps[at] <= steps[min(len(steps) - 1, place + 1)]
    return bool(near and chance <= pace_rule.AGREEING)


def _paced(
    series: WatchedSeries, middle: np.ndarray, place: int, strength: float, seeds: tuple[int, int]
) -> StoreFinding:
    steps, (agreeing, count) = series.line.steps, seeds
    told = "" if count == 1 else f"; {'all' if agreeing == count else f'{agreeing} of'} {count} seeds agree"
    where = f"median over {len(series.cells)} {_kind(series.cells[0])}" if len(series.cells) > 1 else series.cells[0]
    sentence = (
        f"{_subject(series, where)} changes pace at step {steps[place]:,}{_of(series)}: it goes from {middle[0]:,.4g} at step "
        f"{steps[0]:,} to {middle[place]:,.4g} there, and to {middle[-1]:,.4g} at step {steps[-1]:,}{told}."
    )
    rule = (
        "the largest standardised rank sum of the changes before and after a revision, per step and per log step; null: changes "
        "shuffled in time, all quantities and lines of the store taken together"
    )
    return StoreFinding("change point", sentence, series.key, where, series.line.line, series.line.names[place],
                        int(steps[place]), float(middle[place]), rule, pace_rule.FALSE_ALARMS, float(strength))  # fmt: skip


def _subject(series: WatchedSeries, where: str) -> str:
    noun = series.noun[:1].upper() + series.noun[1:]
    return f"{noun} ({where})" if where else noun


def _kind(cell: str) -> str:
    """The plural noun for cells such as a given one."""
    plain = {"block": "blocks", "domain": "domains", "order": "orders"}
    first = cell.split(" ", maxsplit=1)[0]
    return plain[first] if first in plain and "," not in cell else "tensors" if cell.endswith(".weight") else "places"


def _of(series: WatchedSeries) -> str:
    return "" if series.line.line == "run" else f" of {series.line.line}"
