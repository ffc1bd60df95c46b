"""Scores of tasks from the log-likelihoods of all answers.

    >>> from types import SimpleNamespace
    >>> requests = SimpleNamespace(
    ...     item=np.array([0, 0, 1, 1]), gold=np.array([0, 1]), characters=np.array([2, 8, 2, 2]),
    ...     text_bytes=np.array([3, 9, 3, 3]),
    ... )
    >>> of_items(requests, np.array([-4.0, -3.0, -5.0, -2.0]))["accuracy"], mean_and_error(np.array([0.0, 1.0]))
    (array([0., 1.]), (0.5, 0.5))

An answer is right if its log-likelihood is the largest of its item; normalised, the largest per character. Of equal ones the
first counts, as in lm-evaluation-harness.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Int64

from olmo_dynamics.probes.tasks import TaskRequests

METRICS = ("accuracy", "accuracy_normalised", "bits_per_byte")
"""The scores of an item, each a quantity of the group."""


def of_items(
    answers: TaskRequests, log_likelihoods: Float64[np.ndarray, " answers"]
) -> dict[str, Float64[np.ndarray, " items"]]:
    """The scores of each item; NaN where a log-likelihood of the item is."""
    starts = np.searchsorted(answers.item, np.arange(len(answers.gold)))
    right = starts + answers.gold
    bits = -log_likelihoods[right] / (math.log(2) * answers.text_bytes[right])
    unknown = np.isnan(np.add.reduceat(log_likelihoods, starts))
    found = {
        "accuracy": _chosen(log_likelihoods, starts) == answers.gold,
        "accuracy_normalised": _chosen(log_likelihoods / answers.characters, starts) == answers.gold,
        "bits_per_byte": bits,
    }
    return {name: np.where(unknown, math.nan, values.astype(np.float64)) for name, values in found.items()}


def mean_and_error(values: Float64[np.ndarray, " items"]) -> tuple[float, float]:
    """The mean, and its standard error s / sqrt(n) with s² the sample variance; of one item that is NaN."""
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), float(error)


def _chosen(
    values: Float64[np.ndarray, " answers"], starts: Int64[np.ndarray, " items"]
) -> Int64[np.ndarray, " items"]:
    """The place of the largest value within each item."""
    stops = [*starts[1:], len(values)]
    return np.array([int(np.argmax(values[start:stop])) for start, stop in zip(starts, stops, strict=True)])
