"""Findings of features and blocks, and of training curves: persistent outliers, an order of settling, spikes.

>>> [each.sentence for each in outliers_in(grid, lines_of(grid))]  # doctest: +SKIP
['Feature 137 of the residual stream stays an outlier after blocks 2 to 15 since step 10,000: …']
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from olmo_dynamics.errors import counted
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.rules import outlier_rule, settling_rule, spike_rule
from olmo_dynamics.frames.rules.spike_rule import OLMO_CORE, PAPER, SpikeRule
from olmo_dynamics.frames.rules.store_finding import StoreFinding
from olmo_dynamics.frames.rules.watched import LineRows
from olmo_dynamics.names import NO_LAYER, Site

_CURVES = {"loss": "The training loss", "gradient_norm": "The gradient norm of training"}


def outliers_in(grid: Grid, lines: Sequence[LineRows]) -> Iterator[StoreFinding]:
    """The features that stay outliers of the residual stream to the end of a line."""
    store = grid.store
    if not grid.has("activations", "feature_rms") or Site.RESIDUAL_OUT.value not in store.axis("site").labels:
        return
    sizes = grid.array("activations", "feature_rms", at={"site": Site.RESIDUAL_OUT.value}).astype(np.float64)
    blocks = store.axis("layer").labels
    for line in lines:
        own = sizes[line.rows][:, blocks != NO_LAYER]
        there = np.isfinite(own).all(axis=2).any(axis=1)
        for each in outlier_rule.find_persistent(own[there], lines=len(lines)) if there.sum() > 1 else ():
            kept = np.flatnonzero(there)
            yield _outlier(line, each, blocks[blocks != NO_LAYER].tolist(), kept)


def _outlier(
    line: LineRows, found: outlier_rule.PersistentOutlier, blocks: list[int], kept: np.ndarray
) -> StoreFinding:
    since, last = line.steps[kept[found.since]], line.steps[kept[-1]]
    where = _runs([blocks[layer] for layer in found.layers])
    sentence = (
        f"Feature {found.feature} of the residual stream stays an outlier after {where} since step {since:,}"
        f"{'' if line.line == 'run' else f' of {line.line}'}: at step {last:,} its RMS is up to {found.ratio:.3g} times the "
        "median feature's."
    )
    rule = (
        f"an RMS of at least {outlier_rule.FACTOR:g} times the median feature's at every revision to the last; null: features "
        "permuted at each revision"
    )
    return StoreFinding("outlier", sentence, "activations/feature_rms", f"feature {found.feature}, {where}", line.line,
                        line.names[kept[found.since]], int(since), found.ratio, rule, outlier_rule.FALSE_ALARMS,
                        found.ratio / outlier_rule.FACTOR)  # fmt: skip


def _runs(blocks: list[int]) -> str:
    """Blocks in words: `block 3`, `blocks 2 to 5`, `blocks 1, 3 to 5`."""
    spans: list[list[int]] = []
    for block in blocks:
        if spans and block == spans[-1][-1] + 1:
            spans[-1].append(block)
        else:
            spans.append([block])
    words = [f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans]
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(words)}"


def settling_in(grid: Grid, lines: Sequence[LineRows]) -> Iterator[StoreFinding]:
    """The order in which the blocks of a line settle, where there is one."""
    if not grid.has("parameters", "l2_norm"):
        return
    layers = grid.store.axis("tensor").coordinates["layer"]
    squares = grid.array("parameters", "l2_norm") ** 2
    blocks = [block for block in np.unique(layers).tolist() if block != NO_LAYER]
    for line in lines:
        norms = np.stack([np.sqrt(squares[line.rows][:, layers == block].sum(axis=1)) for block in blocks], axis=1) if (
            blocks
        ) else np.empty((0, 0))  # fmt: skip
        kept = np.isfinite(norms).all(axis=1)
        if kept.sum() > 2 and len(blocks) > 1 and np.ptp(norms[kept], axis=0).all():
            when = settling_rule.settled(norms[kept])
            order, chance = settling_rule.order_and_chance(when)
            if chance * len(lines) <= settling_rule.FALSE_ALARMS:
                yield _settling(line, blocks, line.steps[kept][when], (order, chance * len(lines)))


def _settling(line: LineRows, blocks: list[int], steps: np.ndarray, order: tuple[int, float]) -> StoreFinding:
    first_up, third = order[0] > 0, max(1, len(blocks) // 3)
    early, late = (slice(None, third), slice(-third, None)) if first_up else (slice(-third, None), slice(None, third))
    of_line = "" if line.line == "run" else f" in {line.line}"
    sentence = (
        f"The {'first' if first_up else 'last'} blocks settle first{of_line}: the norms of the weights of {_runs(blocks[early])} "
        f"stay near their last values from step {int(np.median(steps[early])):,} on, those of {_runs(blocks[late])} from step "
        f"{int(np.median(steps[late])):,} on."
    )
    rule = (
        f"the rank correlation of depth with the revision since which a block's norm is within {settling_rule.NEARNESS:.0%} of "
        "its way from its last value; null: blocks permuted"
    )
    limit = settling_rule.FALSE_ALARMS
    return StoreFinding("settling", sentence, "parameters/rms", "all blocks", line.line, step=int(np.median(steps[early])),
                        value=float(order[0]), rule=rule, false_alarm_rate=limit,
                        strength=float(np.log(order[1]) / np.log(limit)))  # fmt: skip


def spikes_in(curves: pl.DataFrame, run: str = "") -> Iterator[StoreFinding]:
    """The spikes of training curves, by both rules; `run` names the run in the sentences where there are several."""
    for name, words in _CURVES.items():
        if name in curves.columns:
            rows = curves.select("step", name).drop_nulls().filter(pl.col(name).is_finite()).sort("step")
            for rule in (PAPER, OLMO_CORE):
                values = rows[name].to_numpy().astype(np.float64)
                if len(values) > rule.window and spike_rule.spikes(values, rule).any():
                    subject = f"{words} of {run}" if run else words
                    yield replace(_spikes(name, subject, rows["step"].to_numpy(), values, rule), line=run)


def _spikes(name: str, words: str, steps: np.ndarray, values: np.ndarray, rule: SpikeRule) -> StoreFinding:
    score = spike_rule.deviations(values, rule.window)
    at = spike_rule.spikes(values, rule)
    worst = int(np.argmax(np.where(at, np.abs(score), -np.inf)))
    counted_in = len(values) if rule.of_all else len(values) - rule.window
    every = int(np.median(np.diff(steps)))
    noun, interval = ("update", "") if every == 1 else ("logged value", f", one every {every:,} steps")
    sentence = (
        f"{words} spikes at {counted(int(at.sum()), noun)} of {counted_in:,} by the rule of {rule.name}, most at step "
        f"{steps[worst]:,}: {values[worst]:,.4g}, {abs(score[worst]):.3g} standard deviations "
        f"{'above' if score[worst] > 0 else 'below'} the mean before."
    )
    text = (
        f"{rule.sigmas:g} standard deviations or more {'above' if rule.upwards else 'from'} the mean of the {rule.window:,} "
        f"{noun}s before{interval}; null: the curve's changes, shuffled without those at the spikes"
    )
    return StoreFinding("spike", sentence, f"training/{name}", f"update {steps[worst]}", step=int(steps[worst]),
                        value=float(values[worst]), rule=text, false_alarm_rate=spike_rule.false_alarm_rate(values, rule),
                        strength=float(abs(score[worst]) / rule.sigmas))  # fmt: skip
