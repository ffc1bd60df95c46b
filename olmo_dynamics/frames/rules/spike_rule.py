"""Spikes of a training curve: values far from the mean of those before them, by the rules of OLMo 2 and of OLMo-core.

    >>> values = np.r_[np.tile([1.0, 1.2], 100), 9.0]
    >>> spikes(values, OLMO_CORE).nonzero()[0].tolist(), spike_score(values, OLMO_CORE)
    ([200], 0.004975124378109453)

The paper leaves open whether a value counts in its own window: here it does not. Values before a full window are not scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.rules.step_changes import SEED

SHUFFLES = 199
"""The number of shuffled curves by which a rule's false-alarm rate is measured."""

_MOST = 4_000  # updates of a shuffled curve
_LEAST_SPREAD = 1e-10


@dataclass(frozen=True, slots=True)
class SpikeRule:
    """A rule for spikes: `sigmas` standard deviations (population) from the mean of the `window` values before.

    `upwards` counts only values above the mean; the score is divided by the scored values, or by all if `of_all`.
    """

    name: str
    window: int
    sigmas: float
    upwards: bool
    of_all: bool


PAPER = SpikeRule("OLMo 2", window=1000, sigmas=7.0, upwards=False, of_all=False)
"""The spike score of OLMo 2 (arXiv:2501.00656, section 3.2)."""

OLMO_CORE = SpikeRule("OLMo-core", window=128, sigmas=6.0, upwards=True, of_all=True)
"""The rule of OLMo-core's stability monitor."""


def deviations(values: Float[np.ndarray, "*curves updates"], window: int) -> Float[np.ndarray, "*curves updates"]:
    """Each value's distance from the mean of the `window` before it, in their standard deviations; NaN before a full window."""
    centred = values - values.mean(axis=-1, keepdims=True)
    zero = np.zeros((*values.shape[:-1], 1))
    sums = np.concatenate([zero, np.cumsum(centred, axis=-1)], axis=-1)
    squares = np.concatenate([zero, np.cumsum(centred**2, axis=-1)], axis=-1)
    found = np.full(values.shape, np.nan)
    if values.shape[-1] > window:
        mean = (sums[..., window:-1] - sums[..., : -window - 1]) / window
        square = (squares[..., window:-1] - squares[..., : -window - 1]) / window
        spread = np.sqrt(np.maximum(square - mean**2, 0.0))
        found[..., window:] = (centred[..., window:] - mean) / np.maximum(spread, _LEAST_SPREAD)
        found[..., window:][spread < _LEAST_SPREAD] = 0.0
    return found


def spikes(values: Float[np.ndarray, "*curves updates"], rule: SpikeRule) -> Bool[np.ndarray, "*curves updates"]:
    """True where a curve spikes."""
    score = deviations(values, rule.window)
    found: np.ndarray = (score if rule.upwards else np.abs(score)) >= rule.sigmas
    return found


def spike_score(values: Float[np.ndarray, " updates"], rule: SpikeRule) -> float:
    """The share of updates that spike, of those scored or of all, as the rule says; NaN where none is scored.

    Raises:
        OptionError: a value is not finite.
    """
    if not np.isfinite(values).all():
        raise OptionError(f"a curve must be finite to be scored for spikes (got {values[~np.isfinite(values)][0]})")
    scored = len(values) if rule.of_all else len(values) - rule.window
    return float(spikes(values, rule).sum() / scored) if scored > 0 and len(values) > rule.window else float("nan")


def false_alarm_rate(values: Float[np.ndarray, " updates"], rule: SpikeRule, *, shuffles: int = SHUFFLES) -> float:
    """The share of curves with any spike among those built from the curve's own changes, shuffled without those at its spikes.

    Longer curves are shuffled in parts of `_MOST` updates, and the shares add up.
    """
    at = spikes(values, rule)
    beside = at[1:] | at[:-1]
    changes = np.diff(values)[~beside]
    length = max(min(len(changes), _MOST), rule.window + 1)
    drawing = np.random.default_rng(SEED)
    alarms = 0
    for _ in range(shuffles):
        curve = np.cumsum(drawing.choice(changes, length, replace=length > len(changes)))
        alarms += bool(spikes(curve, rule).any())
    return min(1.0, (1 + alarms) / (1 + shuffles) * max(1.0, len(values) / length))
