"""The rules of findings: false alarms on data of their nulls stay within the stated rate, and planted effects are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.rules import jump_rule, outlier_rule, pace_rule, settling_rule, spike_rule
from olmo_dynamics.frames.rules.spike_rule import OLMO_CORE, PAPER
from olmo_dynamics.frames.rules.step_changes import scaled

STEPS = np.arange(24) * 1000


def allowed(count: int, rate: float) -> int:
    """The most alarms of that many that a rule with the stated rate gives, but for one in a thousand tests."""
    return int(stats.binom.ppf(0.999, count, rate))


def test_jumps_in_walks_with_heavy_tails_are_as_rare_as_stated() -> None:
    drawing = np.random.default_rng(1)
    tests = jump_rule.count_changes(len(STEPS), 6)
    alarms = sum(
        bool(jump_rule.find_jumps(STEPS, 10 * drawing.standard_t(4, (24, 6)).cumsum(axis=0), tests=tests))
        for _ in range(200)
    )
    assert alarms <= allowed(200, jump_rule.FALSE_ALARMS)


def test_the_tail_of_a_ratio_is_that_of_student_s_t() -> None:
    t = np.array([0.0, 0.5, 3.0, 50.0, 1e5])
    np.testing.assert_allclose(jump_rule._upper(t), stats.t.sf(t, 4), rtol=1e-9)
    drawing = np.abs(np.random.default_rng(2).standard_t(4, (200_000, 9)))
    limit = jump_rule.threshold(1, 0.05)
    share = (drawing[:, 0] > limit * np.sort(drawing[:, 1:], axis=1)[:, 4]).mean()
    assert share == pytest.approx(0.05, abs=0.002)


def test_a_planted_jump_is_found_and_the_shuffles_allow_it() -> None:
    walk = 3 + np.random.default_rng(3).normal(0, 0.01, (24, 2)).cumsum(axis=0)
    walk[15:, 1] += 5
    tests = jump_rule.count_changes(24, 2)
    [(ratio, place, cell)] = jump_rule.find_jumps(STEPS, walk, tests=tests)
    assert (place, cell) == (14, 1) and ratio > 100
    assert jump_rule.shuffled_rate(STEPS, walk[:, 1], tests=tests) <= jump_rule.FALSE_ALARMS


def test_training_that_slows_down_is_no_jump() -> None:
    fall = scaled(11 * (1 + STEPS[:, np.newaxis]) ** -0.1)
    assert jump_rule.find_jumps(STEPS, fall, tests=23) == []


@pytest.mark.parametrize("tail", [1, 30])
def test_change_points_of_shuffled_changes_are_as_rare_as_stated(tail: int) -> None:
    drawing = np.random.default_rng(4)
    walks = drawing.standard_t(tail, (400, 24)).cumsum(axis=1)
    chances = np.array([pace_rule.find_change_point(STEPS, walk)[1] for walk in walks])
    for rate in (0.01, 0.05):
        assert (chances <= rate).sum() <= allowed(400, rate)
    own = np.array([pace_rule.border_and_chance(np.diff(walk))[1] for walk in walks])
    assert stats.kstest(own, "uniform").pvalue > 1e-3  # exact on one clock


def test_the_statistic_of_a_border_is_the_standardised_rank_sum() -> None:
    ranks = np.random.default_rng(5).permutation(20).astype(float)
    heights = pace_rule._heights(ranks[np.newaxis])[0]
    for border in range(3, 18):
        found = stats.mannwhitneyu(ranks[:border], ranks[border:], method="asymptotic", use_continuity=False)
        centre, spread = border * (20 - border) / 2, math.sqrt(border * (20 - border) * 21 / 12)
        assert heights[border - 3] == pytest.approx(abs(found.statistic - centre) / spread)


def test_a_planted_change_of_pace_is_found() -> None:
    changes = np.r_[np.full(12, 1.0), np.full(11, 0.02)] + np.random.default_rng(6).normal(0, 0.01, 23)
    place, chance = pace_rule.find_change_point(STEPS, np.r_[0, changes.cumsum()])
    assert abs(place - 12) <= 1 and chance < 0.001


@pytest.mark.parametrize("rule", [PAPER, OLMO_CORE], ids=["paper", "olmo-core"])
def test_spikes_of_noise_are_as_rare_as_stated(rule: spike_rule.SpikeRule) -> None:
    curves = np.random.default_rng(7).normal(0, 1, (40, 1500))
    stated = spike_rule.false_alarm_rate(curves[0], rule, shuffles=99)
    assert stated <= 0.05
    assert spike_rule.spikes(curves, rule).any(axis=1).sum() <= allowed(40, stated)


def test_spikes_are_those_of_a_plain_loop() -> None:
    values = np.random.default_rng(8).normal(3, 0.1, 400)
    values[[200, 300]] += [4, -4]
    found = [
        place for place in range(128, 400)
        if (values[place] - values[place - 128 : place].mean()) >= 6 * values[place - 128 : place].std()
    ]  # fmt: skip
    assert spike_rule.spikes(values, OLMO_CORE).nonzero()[0].tolist() == found == [200]
    assert spike_rule.spike_score(values, OLMO_CORE) == 1 / 400


def test_published_examples_of_the_score() -> None:
    noise = np.random.default_rng(9).normal(0, 1, 6_000)
    assert spike_rule.spike_score(noise, PAPER) == 0
    noise[[2_000, 3_500, 5_000]] += 40
    assert spike_rule.spike_score(noise, PAPER) == pytest.approx(0.0006)
    small = spike_rule.SpikeRule("five", window=5, sigmas=2.0, upwards=True, of_all=True)
    assert spike_rule.spike_score(np.array([1.0, 1.1, 1.2, 1.3, 1.4, 100.0]), small) == pytest.approx(1 / 6)
    assert spike_rule.spike_score(np.full(300, 2.5), OLMO_CORE) == 0
    assert math.isnan(spike_rule.spike_score(noise[:50], PAPER))
    with pytest.raises(OptionError) as caught:
        spike_rule.spike_score(np.array([1.0, np.inf]), small)
    assert str(caught.value) == "a curve must be finite to be scored for spikes (got inf)"


def test_outliers_that_are_permuted_at_each_revision_rarely_persist() -> None:
    drawing = np.random.default_rng(10)
    sizes = np.ones((8, 2, 12))
    sizes[..., :3] = 20.0
    alarms = sum(bool(outlier_rule.find_persistent(drawing.permuted(sizes, axis=2))) for _ in range(1000))
    assert alarms <= allowed(1000, outlier_rule.FALSE_ALARMS)


@settings(max_examples=15, deadline=None)
@given(feature=st.integers(0, 11), since=st.integers(0, 3), layer=st.integers(0, 1))
def test_a_planted_outlier_is_found_since_it_is_there(feature: int, since: int, layer: int) -> None:
    sizes = np.random.default_rng(11).uniform(0.9, 1.1, (8, 2, 12))
    sizes[since:, layer, feature] = 30
    [found] = outlier_rule.find_persistent(sizes)
    assert (found.feature, found.layers, found.since) == (feature, (layer,), since)
    assert found.chance == pytest.approx(2 * 12 * 12.0 ** (since - 8))


@pytest.mark.parametrize("blocks", [6, 8])
def test_blocks_that_are_alike_rarely_settle_in_order(blocks: int) -> None:
    when = np.random.default_rng(12).integers(0, 20, (60, blocks))
    chances = np.array([settling_rule.order_and_chance(each)[1] for each in when])
    assert (chances <= 0.01).sum() <= allowed(60, 0.01)


def test_blocks_that_settle_in_order_are_found() -> None:
    own, chance = settling_rule.order_and_chance(np.arange(8))
    assert own == 28 and chance <= 0.001
    assert own == round(stats.kendalltau(np.arange(8), np.arange(8)).statistic * 28)
