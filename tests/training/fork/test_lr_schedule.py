"""Curves of the schedules against formulae written anew, point by point; what cannot be is refused before anything begins."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.fork.plan import ForkPlan
from olmo_dynamics.training.fork.run import fork
from olmo_dynamics.training.schedule import Schedule

STEP, NOW = 40, 0.0018915263760858401  # where the parent stands, and its rate there as the trainer wrote it
PEAK = 0.002


@pytest.fixture
def rates(shared: Path, tmp_path: Path) -> Callable[..., list[float]]:
    """The learning rates of 40 more updates of a native run, with changes."""

    def make(**changes: Any) -> list[float]:
        recipe = plan_of(shared, tmp_path, **changes).recipe
        seen, found = 2048 * STEP, []
        for position in range(recipe.steps - STEP):
            seen += recipe.sizes.at(position) * recipe.sequence_length
            found.append(recipe.learning_rate(STEP + 1 + position, seen))
        return found

    return make


def plan_of(shared: Path, tmp_path: Path, steps: int = 40, **changes: Any) -> ForkPlan:
    native = shared / "data" / "native"
    data = [native / "tokens" / "train.npy"]
    out = tmp_path / "planned"
    return fork(
        native / "olmo/tiny-olmo2", "step40-unsharded", data=data, out=out, steps=steps, dry_run=True, **changes
    ).plan


def parents(step: int) -> float:
    """The parent's cosine over tokens: from 20480 to 409600, ten and two hundred batches."""
    return 0.1 * PEAK + 0.9 * PEAK * (1 + math.cos(math.pi * (step - 10) / 190)) / 2


@pytest.mark.parametrize(
    ("changes", "formula"),
    [
        ({}, lambda n: parents(STEP + n)),
        ({"lr": 1e-4}, lambda n: parents(STEP + n) * 1e-4 / NOW),
        ({"peak_lr": 1e-3}, lambda n: parents(STEP + n) / 2),
        ({"warmup": 10}, lambda n: parents(STEP + n) * min(1, n / 10)),
        ({"schedule": "constant"}, lambda n: NOW),
        ({"schedule": "constant", "lr": 1e-4, "peak_lr": 3e-4, "warmup": 20}, lambda n: 1e-4 + 2e-4 * min(n, 20) / 20),
        ({"schedule": "linear", "lr": 1e-3}, lambda n: 1e-3 * (1 - n / 40)),
        ({"schedule": "linear", "lr": 1e-3, "warmup": 4}, lambda n: 1e-3 * (1 - n / 40) * min(1, n / 4)),
        ({"schedule": "cosine", "lr": 1e-3}, lambda n: 1e-4 + 9e-4 * (1 + math.cos(math.pi * n / 40)) / 2),
        ({"schedule": "wsd", "lr": 1e-3}, lambda n: 1e-3 * min(1, (40 - n) / 4)),
        ({"schedule": "wsd", "lr": 1e-3, "decay_steps": 8}, lambda n: 1e-3 * min(1, (40 - n) / 8)),
        ({"schedule": "wsd", "lr": 1e-3, "decay_share": 0.5}, lambda n: 1e-3 * min(1, (40 - n) / 20)),
        (
            {"schedule": "wsd", "lr": 1e-3, "decay_steps": 16, "decay_shape": "sqrt", "warmup": 5},
            lambda n: 1e-3 * min(1, n / 5) * (1 - math.sqrt(max(0, n - 24) / 16)),
        ),
        (
            {"schedule": "constant", "batch_warmup": ((10, 32), (20, 64)), "batch_lr": "sqrt"},
            lambda n: NOW * math.sqrt(1 if n <= 10 else 2 if n <= 20 else 4),
        ),
        ({"schedule": "constant", "batch": (4, 128), "batch_lr": "sqrt"}, lambda n: NOW / 2),
        ({"schedule": "constant", "batch": (4, 128), "batch_lr": "sqrt", "lr": 1e-3}, lambda n: 1e-3),
    ],
)
def test_rates_follow_the_formula(
    changes: dict[str, Any], formula: Callable[[int], float], rates: Callable[..., list[float]]
) -> None:
    assert rates(**changes) == pytest.approx([formula(n) for n in range(1, 41)], rel=1e-9, abs=1e-18)


def test_moments_that_start_at_nothing_warm_up(rates: Callable[..., list[float]]) -> None:
    assert rates(moments="warm") == pytest.approx([parents(STEP + n) * n / 100 for n in range(1, 41)], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schedule": "wsd", "decay_steps": 41},
            "wsd's warm-up and decay must fit the 40 steps of the fork (got 0 and 41): give fewer, or more --steps",
        ),
        (
            {"schedule": "wsd", "decay_share": 0.5, "warmup": 30},
            "wsd's warm-up and decay must fit the 40 steps of the fork (got 30 and 20): give fewer, or more --steps",
        ),
        ({"warmup": 41}, "warmup must be at most the 40 steps of the fork (got 41): give fewer, or more --steps"),
        (
            {"lr": 1e-3, "peak_lr": 2e-3},
            "the parent's schedule is scaled by lr (its rate at the fork) or by peak_lr, not by both: leave one out",
        ),
        (
            {"lr": 1e-3, "peak_lr": 2e-3, "schedule": "wsd"},
            "lr (the rate at the fork) and peak_lr (the end of the warm-up) need a warm-up between them: give --warmup STEPS",
        ),
        ({"schedule": "linear", "lr": 0.0}, "the parent's rate at the fork is 0: give --lr, the rate to continue with"),
        ({"batch_warmup": ((40, 32),)}, "steps of batch_warmup must be below the 40 of the fork (got 40)"),
        ({"batch_warmup": ((4, 8),)}, "sequences of batch_warmup must be above the first batch's 16 (got 8)"),
        (
            {"freeze": ("*",), "lr": 1e-3},
            "at least one parameter must not be frozen; * freezes all",
        ),
        (
            {"freeze": ("*bias",)},
            "freeze must name a parameter; '*bias' matches none of 47, such as model.embed_tokens.weight, "
            "model.layers.0.self_attn.q_proj.weight, model.layers.0.self_attn.k_proj.weight",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_the_plan(
    changes: dict[str, Any], message: str, shared: Path, tmp_path: Path
) -> None:
    with pytest.raises((OptionError, TrainingError)) as caught:
        plan_of(shared, tmp_path, **changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_steps": 5}, "decay_steps needs schedule wsd (got schedule None): choose wsd or leave decay_steps out"),
        (
            {"schedule": "wsd", "decay_steps": 5, "decay_share": 0.1},
            "decay_steps and decay_share cannot both be given: leave one out",
        ),
        ({"schedule": "wsd", "decay_share": 0.0}, "decay_share must be above 0 and at most 1 (got 0.0)"),
        ({"schedule": "wsd", "decay_steps": 0}, "decay_steps must be at least 1 (got 0)"),
        ({"lr": math.nan}, "lr must be at least 0 (got nan)"),
        ({"batch_lr": "linear"}, "batch_lr must be one of keep, sqrt (got 'linear')"),
        (
            {"batch_warmup": ((10, 32), (5, 64))},
            "batch_warmup must be steps after the fork and sequences that both rise, such as 500:32,1000:64 (got 10:32,5:64)",
        ),
        (
            {"decay": ("*",), "no_decay": ("*norm*",)},
            "decay (all parameters with weight decay) and no_decay (all without) cannot both be given: leave one out",
        ),
        (
            {"no_decay": ("*norm*",), "weight_decay": 0.0},
            "decay and no_decay need a weight_decay above 0 (got 0): leave one out",
        ),
        ({"eval_every": 0}, "eval_every must be at least 1 (got 0)"),
    ],
)
def test_options_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        ForkOptions(**changes)
    assert str(caught.value) == message


def test_a_schedule_past_its_end_is_one_line(tmp_path: Path, shared: Path) -> None:
    native = shared / "data" / "native"
    given = {"data": [native / "tokens" / "train.npy"], "batch": (1, 128)}
    first = fork(
        native / "olmo/tiny-olmo2", "step40-unsharded", out=tmp_path / "a", steps=2, schedule="cosine", lr=1e-3, **given
    )
    with pytest.raises(TrainingError) as caught:
        fork(tmp_path / "a", first.folder.name if first.folder else "", out=tmp_path / "b", steps=2, **given)
    assert str(caught.value) == (
        "the parent's schedule has ended at a rate of 0.0001: choose --schedule constant, linear, cosine or wsd, "
        "and --lr"
    )
    assert not (tmp_path / "b").exists()


def test_a_schedule_says_what_it_does() -> None:
    schedule = Schedule(
        kind="wsd", begin=40, peak=1e-3, end=100, final_fraction=0.0, decay_from=90, factors=((41, 2.0),)
    )
    assert (
        str(schedule) == "wsd over steps from 40: 0.001, from 90 on (linear), down to 0 at 100; times 2 from update 41"
    )
    assert not schedule.has_ended(139, 0) and schedule.has_ended(140, 0)
    assert not Schedule(kind="constant").has_ended(10**9, 0)
