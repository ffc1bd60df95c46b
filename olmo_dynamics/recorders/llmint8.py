"""The outlier-feature rule of LLM.int8, as a pure function of statistics by feature.

    >>> abs_max = np.array([[7.0, 1.0], [8.0, 9.0]])
    >>> fraction = np.array([[0.5, 0.0], [0.1, 0.01]])
    >>> llmint8_rule(abs_max, fraction).features
    array([0])

Its authors chose 6.0 because degradation stops there, and the shares so that their 125 M model has one outlier: the rule is
calibrated, not universal. Thresholds other than 6.0 can be applied later to a store's `feature_fraction_above`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

LLMINT8_THRESHOLD = 6.0


@dataclass(frozen=True)
class OutlierFeatures:
    """The outlier features, and three numbers over them, which are NaN if there are no outlier features.

    Attributes:
        features: the features, ascending.
        layer_share: mean over them of the share of places where the feature reaches the threshold.
        token_share: mean over them of the largest share of tokens, of any one place, where it does.
        magnitude: median over them of the feature's largest magnitude.
    """

    features: Int64[np.ndarray, " outliers"]
    layer_share: float
    token_share: float
    magnitude: float

    @property
    def count(self) -> int:
        """The number of outlier features."""
        return len(self.features)


def llmint8_rule(
    abs_max: Float[np.ndarray, "places features"],
    fraction: Float[np.ndarray, "places features"],
    threshold: float = LLMINT8_THRESHOLD,
    layer_share: float = 0.25,
    token_share: float = 0.06,
) -> OutlierFeatures:
    """Features with |x| >= `threshold` in at least `layer_share` of places and, in one place, `token_share` of tokens.

    A place is one input (of attention, of the MLP) of one layer; `abs_max` is over its tokens and `fraction` the share of
    them at or above the threshold. Dettmers et al. 2022, arXiv:2208.07339; it leaves the aggregation over layers open.
    """
    reached = abs_max >= threshold
    features = outlier_features(reached, fraction, layer_share, token_share)
    if not len(features):
        return OutlierFeatures(features, math.nan, math.nan, math.nan)
    return OutlierFeatures(
        features,
        float(reached[:, features].mean()),
        float(fraction[:, features].max(axis=0).mean()),
        float(np.median(abs_max[:, features].max(axis=0))),
    )


def outlier_features(
    reached: Bool[np.ndarray, "places features"],
    fraction: Float[np.ndarray, "places features"],
    layer_share: float = 0.25,
    token_share: float = 0.06,
) -> Int64[np.ndarray, " outliers"]:
    """The features reached in enough places and, in one of them, in enough tokens; ascending."""
    if not len(reached):
        return np.empty(0, np.int64)
    return np.flatnonzero((reached.mean(axis=0) >= layer_share) & (fraction.max(axis=0) >= token_share))
