"""The schedule against learning rates that published runs recorded; recipes that mean nothing are refused."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.recipe import Recipe, log_spaced
from olmo_dynamics.training.schedule import cosine_with_warmup


@pytest.mark.parametrize(
    ("step", "tokens_per_step", "peak", "warmup", "end", "recorded"),
    [
        (1_907_359, 512 * 4096, 4e-4, 8_388_608_000, 5e12, 7.4487e-5),  # OLMo 2 1B, where its stage 2 begins
        (928_000, 1024 * 4096, 3e-4, 8_388_608_000, 5e12, 6.1499e-5),  # OLMo 2 7B
        (10**9, 2048 * 4096, 9e-4, 8_388_608_000, 5e12, 9e-5),  # OLMo 2 13B, past the end
        (721_901, 1, 6e-4, 2000, 774_861, 6.6232e-5),  # OLMo 2 32B, which counts steps
    ],
)
def test_cosine_gives_the_rates_that_published_runs_recorded(
    step: int, tokens_per_step: int, peak: float, warmup: float, end: float, recorded: float
) -> None:
    rate = cosine_with_warmup(step * tokens_per_step, peak=peak, warmup=warmup, end=end, final_fraction=0.1)
    assert float(f"{rate:.4e}") == recorded


def test_cosine_gives_a_recorded_rate_to_the_last_bit() -> None:
    rate = cosine_with_warmup(476_838, peak=3e-4, warmup=2000, end=1_192_093, final_fraction=0.1)
    assert rate == 0.00020712352850360292  # Olmo 3 7B's midtraining


def test_learning_rate_at_the_corners() -> None:
    recipe = Recipe(steps=110, warmup_steps=10, peak_lr=1e-2, final_fraction=0.2)
    assert [recipe.learning_rate(step) for step in (0, 1, 5, 10)] == [0, 1e-3, 5e-3, 1e-2]
    assert recipe.learning_rate(60) == pytest.approx((1e-2 + 2e-3) / 2, rel=1e-12)
    assert recipe.learning_rate(110) == pytest.approx(2e-3, rel=1e-12)
    assert Recipe(steps=5).learning_rate(1) == pytest.approx(1e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi / 5))))


@given(st.integers(1, 10_000), st.integers(2, 60))
def test_log_spaced_keeps_both_ends_and_spreads_ratios(steps: int, count: int) -> None:
    chosen = log_spaced(steps, count)
    assert chosen[0] == 0
    assert chosen[-1] == steps
    assert len(chosen) == min(count, steps + 1)
    assert list(chosen) == sorted(set(chosen))
    gaps = [later - earlier for earlier, later in itertools.pairwise(chosen)]
    assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(gaps))  # they widen, up to rounding


def test_log_spaced_by_hand() -> None:
    assert log_spaced(100, 6) == (0, 1, 3, 10, 32, 100)
    assert log_spaced(3, 24) == (0, 1, 2, 3)
    with pytest.raises(OptionError) as caught:
        log_spaced(10, 1)
    assert str(caught.value) == "log spacing needs at least 1 step and 2 revisions (got steps 10 and count 1)"


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(steps=100, warmup_steps=10, betas=(0.8, 0.99), save_at=(0, 50, 100), seed=3)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "recipe: steps must be at least 1 (got 0)"),
        ({"sequences_per_step": 0}, "recipe: sequences_per_step must be at least 1 (got 0)"),
        ({"sequence_length": 1}, "recipe: sequence_length must be at least 2 (got 1)"),
        ({"seed": -1}, "recipe: seed must be at least 0 (got -1)"),
        ({"peak_lr": 0.0}, "recipe: peak_lr must be a finite number above 0 (got 0.0)"),
        ({"clip": math.inf}, "recipe: clip must be a finite number above 0 (got inf)"),
        ({"eps": math.nan}, "recipe: eps must be a finite number above 0 (got nan)"),
        ({"weight_decay": -0.1}, "recipe: weight_decay must be a finite number of at least 0 (got -0.1)"),
        ({"z_loss": -1.0}, "recipe: z_loss must be a finite number of at least 0 (got -1.0)"),
        ({"warmup_steps": 10}, "recipe: warmup_steps must be within 0..9 (got 10)"),
        ({"final_fraction": 1.5}, "recipe: final_fraction must be within 0..1 (got 1.5)"),
        ({"betas": (0.9, 1.0)}, "recipe: betas must be two numbers within [0, 1) (got (0.9, 1.0))"),
        ({"betas": (0.9,)}, "recipe: betas must be two numbers within [0, 1) (got (0.9,))"),
        ({"save_at": (0, 11)}, "recipe: save_at must be steps within 0..10 (got (0, 11))"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Recipe(**({"steps": 10} | fields))
    assert str(caught.value) == message
