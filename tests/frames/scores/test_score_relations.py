"""A statistic beside a score: SciPy's rank correlation, an interval that holds it, and tables of both forms."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import beside_score, rank_correlation

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=20)


@settings(max_examples=25)
@given(PAIRS)
def test_the_rank_correlation_is_that_of_scipy_and_does_not_change_with_the_scale(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(each, float) for each in zip(*pairs, strict=True))
    found = rank_correlation(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(found.rho) and np.isnan(found.low) and found.words.startswith("ρ = undefined, ")
        return
    np.testing.assert_allclose(found.rho, scipy.stats.spearmanr(x, y).statistic, atol=1e-12)
    assert -1 <= found.low <= found.high <= 1
    assert rank_correlation(np.exp(x), 2 * y + 1) == found


def test_intervals_of_independent_series_hold_zero_about_as_often_as_they_say() -> None:
    drawn = np.random.default_rng(0).normal(size=(2, 60, 40))
    found = [rank_correlation(x, y) for x, y in zip(*drawn, strict=True)]
    assert sum(each.low <= 0 <= each.high for each in found) >= 0.85 * len(found)
    assert rank_correlation([1, 2, 3], [1, 3, 2]).words == "ρ = 0.50, 3 revisions"
    assert rank_correlation(range(9), range(9)).words == "ρ = 1.00 [1.00, 1.00], 9 revisions"


def tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    names = ["a", "b", "c"]
    losses = pl.DataFrame({"revision": names, "step": [0, 1, 2], "domain": "code", "cross_entropy": [3.0, None, 1.0]})
    joined = pl.DataFrame({"revision": ["c", "a", "c"], "task": "piqa", "setting": ["5-shot", "0-shot", "0-shot"],
                           "metric": "acc", "value": [0.9, 0.5, 0.7], "stderr": [0.1, None, 0.2]})  # fmt: skip
    scored = pl.DataFrame(
        {"revision": names, "task": "piqa", "accuracy": [0.5, 0.6, 0.7], "accuracy_se": [0.1, 0.1, 0.2]}
    )
    return losses, joined, scored


def test_scores_of_both_forms_are_put_beside_the_statistic_of_their_revision() -> None:
    losses, joined, scored = tables()
    columns = ("revision", "step", "domain", "cross_entropy", "task", "metric", "score", "score_se")
    found = beside_score(losses, "cross_entropy", joined, task="piqa", metric="acc", setting="0-shot")
    assert found.columns == list(columns)
    assert found.rows() == [
        ("a", 0, "code", 3.0, "piqa", "acc", 0.5, None),
        ("c", 2, "code", 1.0, "piqa", "acc", 0.7, 0.2),
    ]
    found = beside_score(losses, "cross_entropy", scored, task="piqa")
    assert found.rows() == [
        ("a", 0, "code", 3.0, "piqa", "accuracy", 0.5, 0.1), ("c", 2, "code", 1.0, "piqa", "accuracy", 0.7, 0.2),
    ]  # fmt: skip


def test_what_cannot_be_put_together_is_refused() -> None:
    losses, joined, scored = tables()
    for table, scores, told, options in (
        (losses, joined, "the scores of piqa, acc must have one row per revision (got 2 of c); give setting, or drop what is in "
                         "conflict", {"metric": "acc"}),
        (pl.concat([losses, losses]), scored, "the table of cross_entropy must have one row per revision (got 2 of {}); filter "
                                              "it, to one tensor, layer or domain", {}),
        (losses, scored, "metric must be one of accuracy (got acc); did you mean 'accuracy'?", {"metric": "acc"}),
        (losses, scored, "task must be one of piqa (got pica); did you mean 'piqa'?", {"task": "pica"}),
        (losses.drop("cross_entropy"), scored, "the table must have a column 'cross_entropy' (got revision, step, domain)", {}),
    ):  # fmt: skip
        with pytest.raises(OptionError) as caught:
            beside_score(table, "cross_entropy", scores, **{"task": "piqa", **options})
        assert str(caught.value) in {told.format("a"), told.format("c"), told.format("b")}
