"""The births of outlier features, by the LLM.int8 rule, revision by revision.

>>> born = births(store)  # doctest: +SKIP
>>> born.filter("is_outlier").group_by("feature").agg(pl.col("first_step").first())  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import Grid, numbers
from olmo_dynamics.store import Store


def births(
    store: Store,
    threshold: float = 6.0,
    *,
    layer_share: float = 0.25,
    token_share: float = 0.06,
    relative: bool = False,
) -> pl.DataFrame:
    """Find the features that are outliers in at least one revision, and list them by revision, layer and input.

    A feature is an outlier of a revision when |x| >= threshold somewhere in at least `layer_share` of the (input, layer)
    pairs measured, and in at least `token_share` of the tokens of one pair (Dettmers et al. 2022, arXiv:2208.07339).

    Args:
        store: a store with the group `outliers`.
        threshold: a magnitude among the store's `threshold` labels, or with `relative` among its `rms_threshold` labels.
        layer_share: share of (input, layer) pairs.
        token_share: share of tokens.
        relative: measure |x| in units of the token's own RMS over features.

    Returns:
        The leading columns, `layer`, `input`, `feature`, `magnitude` (largest |x|), `fraction` (share of tokens at or above
        the threshold), `is_outlier` (in this revision), `first_step` (the step of the first revision in which it is one).

    Raises:
        OptionError: no outliers are recorded in the store.
        StoreError: the threshold is not a recorded one.
    """
    if "outliers" not in store.groups:
        raise OptionError(f"{store.path} must have the group outliers; collect with --record outliers")
    grid = Grid(store)
    axis, name = (
        ("rms_threshold", "feature_fraction_above_rms") if relative else ("threshold", "feature_fraction_above")
    )
    fraction = grid.array("outliers", name, at={axis: threshold})
    is_outlier = outliers(fraction, layer_share=layer_share, token_share=token_share)
    magnitude = grid.array("outliers", "feature_abs_max")
    measured = ~np.isnan(fraction)
    kept = measured & is_outlier.any(axis=0)
    revision, _, _, feature = np.nonzero(kept)
    frame = grid.rows(("input", "layer", "feature"), kept).with_columns(
        numbers("magnitude", magnitude[kept]),
        numbers("fraction", fraction[kept]),
        pl.Series("is_outlier", is_outlier[revision, feature]),
        _first_step(grid, is_outlier).gather(feature),
    )
    return frame.select(*grid.leading.columns, "layer", "input", pl.exclude(*grid.leading.columns, "layer", "input"))


def outliers(fraction: np.ndarray, *, layer_share: float, token_share: float) -> np.ndarray:
    """True for features that meet the rule, [revision, feature], from shares of tokens [revision, input, layer, feature]."""
    measured = ~np.isnan(fraction)
    shares = np.where(measured, fraction, 0)
    reach = (shares > 0).sum(axis=(1, 2)) / np.maximum(measured.sum(axis=(1, 2)), 1)
    often = shares.max(axis=(1, 2)) >= shares.dtype.type(token_share)
    met: np.ndarray = (reach >= layer_share) & often
    return met


def _first_step(grid: Grid, is_outlier: np.ndarray) -> pl.Series:
    """By feature, the step of the first revision in which it is an outlier."""
    return grid.leading["step"].gather(is_outlier.argmax(axis=0)).alias("first_step")
