"""A statistic beside a score of the same revisions, and how far the order of one follows that of the other.

>>> loss = store.table("loss").filter(domain="code")                                              # doctest: +SKIP
>>> pairs = beside_score(loss, "cross_entropy", joined.scores, task="piqa", metric="acc")         # doctest: +SKIP
>>> rank_correlation(pairs["cross_entropy"], pairs["score"]).words                                # doctest: +SKIP
'ρ = -0.91 [-0.97, -0.74], 24 revisions'
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.quantities import known_axes

RESAMPLES, SEED = 2_000, 0
"""Resamples of the bootstrap, and the seed by which they are drawn."""

FEWEST = 4
"""Revisions below which there is no interval."""

_PLACES = ("revision", "stage", "ingredient", "line", "step", "tokens", "position_step", "position_tokens")


def beside_score(
    table: pl.DataFrame,
    y: str,
    scores: pl.DataFrame,
    *,
    task: str,
    metric: str = "accuracy",
    setting: str | None = None,
) -> pl.DataFrame:
    """One row per revision that has both: the statistic `y`, and the score of a task.

    Args:
        table: a table of a store with one row per revision, or filtered to that.
        y: its column, such as `cross_entropy`.
        scores: the `scores` of `join_scores`, or a store's table `evaluation`.
        task: the task, such as `piqa`.
        metric: the metric: of joined scores by its name there, of the table `evaluation` a column.
        setting: the setting of joined scores, such as `5-shot`; needed where a task has several.

    Returns:
        The place of each revision in training, the labels of `y`, `y`, task, metric, score, and score_se (null where unknown).

    Raises:
        OptionError: a column, task or metric is missing, or a revision has several rows or several scores.
    """
    for name in ("revision", y):
        if name not in table.columns:
            raise OptionError(f"the table must have a column {name!r} (got {', '.join(table.columns)})")
    found = _scores(scores, task, metric, setting)
    _one_per_revision(
        table.filter(pl.col(y).is_not_null()), f"the table of {y}", "filter it, to one tensor, layer or domain"
    )
    _one_per_revision(found, f"the scores of {task}, {metric}", "give setting, or drop what is in conflict")
    kept = (*_PLACES, *(name for name in known_axes() if name not in found.columns and name != y), "role", "embedding")
    places = [name for name in dict.fromkeys(kept) if name in table.columns]
    both = table.select(*places, y).join(found, on="revision", how="inner", maintain_order="left")
    return both.filter(pl.col(y).is_not_null(), pl.col("score").is_not_null())


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's rank correlation over `revisions`, and its interval; NaN where there are too few or all are equal."""

    rho: float
    low: float
    high: float
    revisions: int

    @property
    def words(self) -> str:
        """The correlation, its interval, and the number of revisions."""
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if math.isfinite(self.low) else ""
        rho = f"{self.rho:.2f}" if math.isfinite(self.rho) else "undefined"
        return f"ρ = {rho}{interval}, {self.revisions} revision{'' if self.revisions == 1 else 's'}"


def rank_correlation(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> RankCorrelation:
    """Spearman's rank correlation of two series in training order, with a block-bootstrap interval.

    `ρ` is Pearson's correlation of the ranks, equal values sharing their mean rank. Revisions of one training follow from one
    another, so circular blocks of ⌈n^(1/3)⌉ revisions in a row are drawn (Politis and Romano 1992), 2,000 times with seed 0; the
    interval is that of the percentiles, without the resamples in which a series is constant. Below 4 revisions it is NaN.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    count = len(first)
    rho = float(_spearman(first[None], second[None])[0]) if count > 1 else math.nan
    if count < FEWEST or not math.isfinite(rho):
        return RankCorrelation(rho, math.nan, math.nan, count)
    block = math.ceil(count ** (1 / 3))
    starts = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, math.ceil(count / block)))
    chosen = ((starts[..., None] + np.arange(block)) % count).reshape(RESAMPLES, -1)[:, :count]
    drawn = _spearman(first[chosen], second[chosen])
    edges = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return RankCorrelation(rho, float(edges[0]), float(edges[1]), count)


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank correlation of each row; NaN where one is constant."""
    ranks = [_ranks(each) for each in (x, y)]
    first, second = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = (first * second).sum(axis=1) / spread
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ranks within each row, equal values sharing their mean rank."""
    levels, codes = np.unique(values, return_inverse=True)
    codes = codes.reshape(values.shape)
    rows = np.arange(len(values))[:, None] * len(levels)
    counts = np.bincount((codes + rows).ravel(), minlength=len(values) * len(levels)).reshape(len(values), -1)
    means = np.cumsum(counts, axis=1) - (counts + 1) / 2
    found: NDArray[np.float64] = np.take_along_axis(means, codes, axis=1)
    return found


def _scores(scores: pl.DataFrame, task: str, metric: str, setting: str | None) -> pl.DataFrame:
    """Revision, task, metric, score and its error, from a table of either form."""
    of_task = _only(scores, "task", task)
    if "metric" in scores.columns:
        chosen = _only(of_task, "metric", metric)
        chosen = chosen if setting is None else _only(chosen, "setting", setting)
        value, error = "value", pl.col("stderr")
    else:
        if metric not in scores.columns:
            known = [name for name in scores.columns if f"{name}_se" in scores.columns]
            raise OptionError(f"metric must be one of {', '.join(known)} (got {metric}){did_you_mean(metric, known)}")
        chosen, value = of_task, metric
        error = pl.col(f"{metric}_se") if f"{metric}_se" in scores.columns else pl.lit(None, pl.Float64)
    named = chosen.select("revision", "task", pl.lit(metric).alias("metric"), score=value, score_se=error)
    return named.unique(maintain_order=True)


def _only(scores: pl.DataFrame, column: str, value: str) -> pl.DataFrame:
    if column not in scores.columns:
        raise OptionError(f"scores must have a column {column!r} (got {', '.join(scores.columns)})")
    known = [str(each) for each in scores[column].drop_nulls().unique(maintain_order=True)]
    if value not in known:
        raise OptionError(f"{column} must be one of {', '.join(known)} (got {value}){did_you_mean(value, known)}")
    return scores.filter(pl.col(column) == value)


def _one_per_revision(rows: pl.DataFrame, what: str, advice: str) -> None:
    count = rows.height
    if count > rows["revision"].n_unique():
        several = rows["revision"].value_counts(sort=True).row(0)
        raise OptionError(f"{what} must have one row per revision (got {several[1]} of {several[0]}); {advice}")
