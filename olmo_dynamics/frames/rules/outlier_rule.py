"""Persistent outliers: features of the residual stream far above the others at every revision to the last.

A feature is an outlier of a layer at a revision if its RMS is at least `FACTOR` times the median feature's. If features were
permuted at each revision, a given one would be an outlier at all of the last m revisions with probability Πᵣ (cᵣ / d), where
cᵣ of d features are outliers at revision r. A feature is persistent from the earliest revision since which it always is one,
if d times that probability, summed over layers and lines, is at most `FALSE_ALARMS`.

>>> sizes = np.ones((6, 1, 32))
>>> sizes[2:, 0, 7] = 20
>>> find_persistent(sizes)
[PersistentOutlier(feature=7, layers=(0,), since=2, ratio=20.0, chance=3.0517578125e-05)]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

FALSE_ALARMS = 0.01
"""The probability of any persistent outlier in a store whose features are permuted at each revision, at most."""

FACTOR = 6.0
"""The least multiple of the median feature's RMS."""


@dataclass(frozen=True, slots=True)
class PersistentOutlier:
    """A feature, the layers in which it persists, the first revision of the earliest, and its largest multiple at the last."""

    feature: int
    layers: tuple[int, ...]
    since: int
    ratio: float
    chance: float


def find_persistent(
    sizes: Float[np.ndarray, "revisions layers features"], *, lines: int = 1, factor: float = FACTOR
) -> list[PersistentOutlier]:
    """The persistent outliers of one line, the greatest first.

    Args:
        sizes: RMS of each feature; a layer with NaN has none.
        lines: the number of lines that are searched in the whole store.
        factor: the least multiple of the median feature's RMS.
    """
    _, layers, features = sizes.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = sizes / np.median(sizes, axis=2, keepdims=True)
    is_outlier = (ratio >= factor) & np.isfinite(ratio)
    length = np.cumprod(is_outlier[::-1], axis=0).sum(axis=0)  # revisions to the last, [layers, features]
    counts = is_outlier.sum(axis=2)[::-1]
    chances = features * layers * lines * np.cumprod(counts / features, axis=0)
    places: dict[int, list[tuple[int, int, float]]] = {}
    for layer, feature in np.argwhere(length > 0).tolist():
        run = int(length[layer, feature])
        chance = float(chances[run - 1, layer])
        if chance <= FALSE_ALARMS:
            places.setdefault(feature, []).append((layer, len(sizes) - run, chance))
    found = [
        PersistentOutlier(
            feature,
            tuple(layer for layer, _, _ in at),
            min(since for _, since, _ in at),
            float(max(ratio[-1, layer, feature] for layer, _, _ in at)),
            min(chance for _, _, chance in at),
        )
        for feature, at in places.items()
    ]
    return sorted(found, key=lambda each: (-each.ratio, each.feature))
