"""A fork's learning rate: its parent's curve continued, or another from the fork to its end.

>>> fork_schedule(parent, steps=1000, options=Options(schedule="wsd", lr=1e-4), warm=0)     # doctest: +SKIP
Schedule(kind='wsd', …)
"""

from __future__ import annotations

import math
from dataclasses import replace

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.training.options import DECAY_SHARE, Options
from olmo_dynamics.training.parents import Parent
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.schedule import Schedule

OTHERS = "choose --schedule constant, linear, cosine or wsd"
_FINAL = {"constant": 1.0, "linear": 0.0, "cosine": 0.1, "wsd": 0.0}


def fork_schedule(parent: Parent, base: Recipe, *, steps: int, options: Options, warm: int) -> Schedule:
    """The curve of `steps` updates after the fork, the first `warm` of them a climb.

    Raises: TrainingError where the parent's cannot be continued; OptionError for a combination without meaning.
    """
    if options.warmup is not None and options.warmup > steps:
        raise OptionError(
            f"warmup may take the {steps} steps of the fork; got {options.warmup}: give fewer, or more --steps"
        )
    kind = options.schedule or ("parent" if base.schedule or parent.no_schedule else "constant")
    if kind == "parent":
        return _parents(parent, base, options, warm)
    peak, begin = _rates(parent, base, options)
    schedule = Schedule(
        kind=kind,
        begin=parent.step,
        peak=peak,
        warmup=warm if begin is not None else 0,
        warmup_from=begin or 0.0,
        end=steps,
        final_fraction=_FINAL[kind],
        decay_from=_decay_from(steps, warm, options) if kind == "wsd" else 0,
        decay_shape=options.decay_shape or "linear",
    )
    return schedule if begin is not None or not warm else replace(schedule, rewarm_at=parent.step, rewarm_steps=warm)


def with_batch(schedule: Schedule, parent: Parent, recipe: Recipe, options: Options) -> Schedule:
    """The schedule times √(tokens of a batch / tokens of one at the fork), where `batch_lr` asks for it.

    What the rate at the fork belongs to is the user's first batch where the user gave a rate, else the parent's last.
    """
    now = schedule.factor(parent.step + 1)
    if options.batch_lr == "keep":
        changed = options.batch or options.batch_warmup
        return replace(schedule, factors=((parent.step + 1, now),)) if changed and schedule.factors else schedule
    reference = recipe.tokens_per_step
    if parent.recipe is not None and options.lr is None and options.peak_lr is None:
        reference = parent.recipe.sizes.at(parent.position) * parent.recipe.sequence_length
    sizes = ((0, recipe.sequences_per_step), *recipe.batch_growth)
    ratios = [(parent.step + 1 + begin, size * recipe.sequence_length / reference) for begin, size in sizes]
    return replace(schedule, factors=tuple((at, now * math.sqrt(ratio)) for at, ratio in ratios))


def _parents(parent: Parent, base: Recipe, options: Options, warm: int) -> Schedule:
    own = base.schedule
    if own is None:
        raise TrainingError(
            f"the parent's schedule cannot be continued: {parent.no_schedule or 'it is not known'}: {OTHERS}"
        )
    if own.has_ended(parent.step, parent.tokens_seen):
        rate = own.learning_rate(parent.step, parent.tokens_seen)
        raise TrainingError(f"the parent's schedule has come to its end, a rate of {rate:.6g}: {OTHERS}, and --lr")
    if options.lr is not None and options.peak_lr is not None:
        raise OptionError(
            "the parent's schedule is scaled by lr (its rate at the fork) or peak_lr; got both: leave one out"
        )
    now = own.learning_rate(parent.step, parent.tokens_seen)
    if options.lr is not None and not now:
        raise TrainingError("the parent's rate at the fork is 0 and cannot be scaled: choose another --schedule")
    wanted, came = (options.lr, now) if options.lr is not None else (options.peak_lr, own.scale * own.peak)
    schedule = own if wanted is None else replace(own, scale=own.scale * wanted / came)
    return replace(schedule, rewarm_at=parent.step, rewarm_steps=warm) if warm else schedule


def _rates(parent: Parent, base: Recipe, options: Options) -> tuple[float, float | None]:
    """The rate to hold or to come down from, and where a climb to it begins; None for a climb from 0, or none."""
    now = base.schedule.learning_rate(parent.step, parent.tokens_seen) if base.schedule else parent.rate
    if options.peak_lr is None:
        peak = now if options.lr is None else options.lr
        if peak is None:
            raise TrainingError("the parent's rate at the fork is not known: give --lr")
        if not peak:
            raise TrainingError("the parent's rate at the fork is 0: give --lr, the rate to go on with")
        return peak, None
    if options.lr is None:
        return options.peak_lr, None
    if not options.warmup:
        raise OptionError(
            "lr is the rate at the fork and peak_lr where a warm-up takes it; got both: give --warmup STEPS too"
        )
    return options.peak_lr, options.lr


def _decay_from(steps: int, warm: int, options: Options) -> int:
    share = options.decay_share or DECAY_SHARE
    decay = max(1, round(share * steps)) if options.decay_steps is None else options.decay_steps
    if warm + decay > steps:
        raise OptionError(
            f"wsd's warm-up and decay may take the {steps} steps of the fork; got {warm} and {decay}: give fewer, or more --steps"
        )
    return steps - decay
