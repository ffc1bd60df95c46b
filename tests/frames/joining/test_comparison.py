"""Differences over seeds, with tests that equal SciPy's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import JoinedStore, compare
from olmo_dynamics.frames.seeds.paired_tests import sign_flips, t_test
from olmo_dynamics.frames.student_t import quantile, two_sided
from tests.frames.joining.datadecide import SEEDS, STEPS, add, new_store

FEW = (
    "Few seeds: with 3 pairs no flip of signs gives a p-value below 0.25, and the t test rests on normally distributed "
    "differences."
)


@given(st.integers(1, 200), st.floats(-60, 60))
@settings(max_examples=50)
def test_p_values_are_those_of_students_t(freedom: int, t: float) -> None:
    np.testing.assert_allclose(  # SciPy itself errs by 5e-9 where t is 1e-8 and there is one degree of freedom
        two_sided(np.array([t]), freedom), 2 * stats.t.sf(abs(t), freedom), rtol=1e-8, atol=1e-300
    )
    if freedom == 1:
        np.testing.assert_allclose(two_sided(np.array([t]), 1), 1 - 2 / np.pi * np.arctan(abs(t)), rtol=1e-12)
    np.testing.assert_allclose(quantile(freedom), stats.t.ppf(0.975, freedom), rtol=1e-9)


@given(st.integers(2, 9), st.integers(0, 2**32))
@settings(max_examples=10)
def test_paired_tests_equal_scipys(number: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, number, 3)) + 0.5
    mine, theirs = t_test(a - b), stats.ttest_rel(a, b)
    np.testing.assert_allclose([mine.t, mine.p_value], [theirs.statistic, theirs.pvalue], rtol=1e-9)
    interval = theirs.confidence_interval(0.95)
    np.testing.assert_allclose([mine.low, mine.high], [interval.low, interval.high], rtol=1e-9, atol=1e-12)
    flipped = stats.permutation_test(
        (a - b,), lambda x, axis: x.mean(axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    np.testing.assert_allclose(sign_flips(a - b), flipped.pvalue, rtol=1e-12)


def test_two_recipes_are_compared_by_seed_and_step_as_scipy_does(recipes: JoinedStore) -> None:
    table = recipes.table("loss")
    sides = {recipe: table.filter(recipe=recipe) for recipe in ("c4", "dclm-baseline")}
    found = compare(sides, "bits_per_byte")
    assert found.differences.select("step", "domain").rows() == [
        (step, each) for step in STEPS for each in ("prose", "code")
    ]
    for row in found.differences.iter_rows(named=True):
        a, b = (
            side.filter(step=row["step"], domain=row["domain"]).sort("seed")["bits_per_byte"].to_numpy()
            for side in sides.values()
        )
        expected = stats.ttest_rel(a, b)
        mine = [row["a"], row["b"], row["difference"], row["t"], row["p_value"]]
        np.testing.assert_allclose(
            mine, [a.mean(), b.mean(), (a - b).mean(), expected.statistic, expected.pvalue], rtol=1e-9
        )
    assert found.differences["seeds"].unique().to_list() == [len(SEEDS)] and found.notes == (FEW,)
    assert found.pairs.height == len(STEPS) * len(SEEDS) * 2


def test_stores_are_compared_by_the_quantity_of_a_group(recipes: JoinedStore) -> None:
    first, second = (run.store for run in recipes.runs[:2])
    of_stores = compare(first, second, "parameters/rms")
    of_paths = compare({"a": first.path, "b": str(second.path)}, "parameters/rms")
    assert of_paths.differences.equals(of_stores.differences)
    table = recipes.table("parameters")
    of_tables = compare(table.filter(recipe="c4"), table.filter(recipe="dclm-baseline"), "rms")
    assert of_stores.differences.equals(of_tables.differences)
    assert {"step", "tensor", "layer", "role"} < set(of_stores.differences.columns)


def test_one_seed_gives_differences_and_says_that_they_cannot_be_tested(recipes: JoinedStore) -> None:
    table = recipes.table("loss")
    one = table.filter(recipe="c4", seed="default")
    found = compare({"one": one, "all": table.filter(recipe="dclm-baseline")}, "bits_per_byte")
    assert found.differences["p_value"].is_null().all() and found.differences["difference"].is_not_null().all()
    assert found.notes == (
        "Too few seeds: both sides share 1 seed, and a test needs at least 2.",
        "Left out of all, since the other side lacks them: seeds small-aux-2, small-aux-3.",
    )
    assert str(found).endswith(found.notes[-1])


def test_several_trainings_on_one_side_are_refused(recipes: JoinedStore) -> None:
    table = recipes.table("loss")
    message = (
        "compare() needs one value per seed and step in both (got several, which differ in run, recipe, line); "
        "filter its table to one training"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        compare({"both": table, "c4": table.filter(recipe="c4")}, "bits_per_byte")
    message = (
        "compare() needs seeds and steps that both sides have: a has seeds default and 6 values of step, "
        "b has seeds x and 6 values of step"
    )
    one = table.filter(recipe="c4", seed="default")
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        compare(one, one.with_columns(seed=pl.lit("x")), "bits_per_byte")


def test_losses_in_nats_of_two_tokenizers_are_refused(tmp_path: Path) -> None:
    one = new_store(tmp_path / "a.zarr", "org/a")
    other = new_store(tmp_path / "b.zarr", "org/b", tokenizer="ef" * 32, probe="ef" * 32)
    for store in (one, other):
        add(store, "step10", 1)
    message = (
        "loss/cross_entropy of these stores does not compare: it is in nat/token of 2 tokenizers, which do not compare; "
        "bits per byte do"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        compare(one, other, "loss/cross_entropy")
    assert compare(one, other, "loss/bits_per_byte").differences["difference"].to_list() == [0.0, 0.0]
