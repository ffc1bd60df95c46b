"""Tokens of the probe by the trend of their loss: learned, stagnated, unlearned, or of high variance.

>>> token_classes(open_store("run.zarr")).filter(trend="learned")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.student_t import quantile
from olmo_dynamics.store import Store

TRENDS = ("learned", "stagnated", "high variance", "unlearned")
"""The classes, in the order of pictures."""

LEAST_REVISIONS = 5
CHANGE, SCATTER, RISE = 0.2, 0.5, 0.5
"""In nats: the least fitted change of a learned or unlearned token, the residual standard deviation above which a token without
one has a high variance, and the rise above its own minimum at which a token counts as forgotten."""

_CHUNK = 16_384  # tokens that are classified together


def token_classes(store: Store) -> pl.DataFrame:
    """One row per revision and `trend`: the `share` of the probe's tokens whose loss, up to that revision, has that trend.

    The loss of each token is fitted by least squares on the logarithm of the tokens seen (or of the step, where those are not
    known), over the revisions of its line of training so far, from five on. A token is *learned* if the slope is below 0 at
    p < 0.05 (two-sided, t distribution) and the fitted loss drops by more than 0.2 nat; *unlearned* if it rises so; else of *high
    variance* if the residuals' standard deviation exceeds 0.5 nat, and *stagnated* if not. By chance alone, 2.5 % of tokens
    without a trend pass either test. `forgotten` is the share of tokens whose loss is more than 0.5 nat above its own least value
    so far; `classified` is the number of tokens. After Xia et al. 2022, arXiv:2212.09803, and Lin et al. 2024, arXiv:2404.07965;
    the thresholds are ours.

    Raises:
        OptionError: the store has no group `tokens`, or no line of training has five revisions with a place in training.
    """
    if "tokens" not in store.groups:
        raise OptionError(f"{store.path} must hold the group tokens; collect it with --record tokens")
    grid = Grid(store)
    losses = grid.array("tokens", "token_cross_entropy").reshape(len(grid.leading), -1)
    frames = [
        part for rows, place in _lines(grid.leading) for part in _of_line(grid.leading[rows], losses[rows], place)
    ]
    if not frames:
        raise OptionError(
            f"classes of tokens need at least {LEAST_REVISIONS} revisions after step 0 in one line of training"
        )
    return pl.concat(frames)


def _lines(leading: pl.DataFrame) -> Iterator[tuple[list[int], np.ndarray]]:
    """The rows of each line of training in order of time, with the logarithms of their places."""
    name = "tokens" if leading["tokens"].is_not_null().any() else "step"
    timed = leading.with_row_index("row").filter(pl.col(name) > 0).sort(name, maintain_order=True)
    for line in timed.unique(["line", name], keep="first", maintain_order=True).partition_by(
        "line", maintain_order=True
    ):
        if line.height >= LEAST_REVISIONS:
            yield line["row"].to_list(), np.log(line[name].to_numpy().astype(np.float64))


def _of_line(leading: pl.DataFrame, losses: np.ndarray, place: np.ndarray) -> Iterator[pl.DataFrame]:
    """The shares of one line: a frame per class."""
    known = np.isfinite(losses).all(axis=0)
    total = int(known.sum())
    if not total:
        return
    counts, forgotten = np.zeros((len(place), len(TRENDS))), np.zeros(len(place))
    columns = np.flatnonzero(known)
    for start in range(0, total, _CHUNK):
        values = losses[:, columns[start : start + _CHUNK]].astype(np.float64)
        found = classify(values, place)
        counts += (found[:, :, None] == np.arange(len(TRENDS))).sum(axis=1)
        forgotten += (values > np.minimum.accumulate(values) + RISE).sum(axis=1)
    later = slice(LEAST_REVISIONS - 1, None)
    for index, trend in enumerate(TRENDS):
        yield leading[later].with_columns(
            pl.lit(trend).alias("trend"),
            pl.Series("share", counts[later, index] / total),
            pl.Series("forgotten", forgotten[later] / total),
            pl.lit(total).alias("classified"),
        )


def classify(losses: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The class [revision, token] of losses [revision, token] up to each revision; those before the fifth are not meaningful.

    `place` [revision] is the logarithm of the tokens seen.
    """
    number = np.arange(1, len(place) + 1, dtype=np.float64)[:, None]
    at, value = (place - place[0])[:, None], losses - losses[0]  # close to 0, so that sums of squares keep their digits
    sums = (np.cumsum(part, axis=0) for part in (at, value, at * at, at * value, value * value))
    sum_x, sum_y, sum_xx, sum_xy, sum_yy = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = sum_xx - sum_x**2 / number
        slope = (sum_xy - sum_x * sum_y / number) / spread
        residual = np.maximum(sum_yy - sum_y**2 / number - slope**2 * spread, 0)
        variance = residual / (number - 2)
        significant = np.abs(slope) > _critical(number - 2) * np.sqrt(variance / spread)
        change = slope * at
    trend = np.where(variance > SCATTER**2, TRENDS.index("high variance"), TRENDS.index("stagnated"))
    trend = np.where(significant & (change < -CHANGE), TRENDS.index("learned"), trend)
    return np.where(significant & (change > CHANGE), TRENDS.index("unlearned"), trend)


def _critical(freedom: np.ndarray) -> np.ndarray:
    """The 97.5 % quantile of Student's t for each number of degrees of freedom; at least 1 is taken."""
    distinct, places = np.unique(np.maximum(freedom, 1), return_inverse=True)
    return np.array([quantile(int(each)) for each in distinct])[places].reshape(np.shape(freedom))
