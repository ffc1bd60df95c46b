"""A fork's learning rate: its parent's curve continued, or another from the fork to its end.

>>> fork_schedule(parent, base, steps=1000, options=ForkOptions(schedule="wsd", lr=1e-4), warm=0)     # doctest: +SKIP
Schedule(kind='wsd', …)
"""

from __future__ import annotations

import math
from dataclasses import replace

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.training.fork.options import DECAY_SHARE, ForkOptions
from olmo_dynamics.training.parent.parent import Parent
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.schedule import Schedule

OTHERS = "choose --schedule constant, linear, cosine or wsd"
_FINAL = {"constant": 1.0, "linear": 0.0, "cosine": 0.1, "wsd": 0.0}


def fork_schedule(parent: Parent, base: Recipe, *, steps: int, options: ForkOptions, warm: int) -> Schedule:
    """The curve of `steps` updates after the fork, the first `warm` of them a climb.

    Raises:
        TrainingError: the parent's schedule cannot be continued.
        OptionError: the options contradict each other.
    """
    if options.warmup is not None and options.warmup > steps:
        raise OptionError(
            f"warmup must be at most the {steps} steps of the fork (got {options.warmup}): give fewer, or more --steps"
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


def scale_by_batch(schedule: Schedule, parent: Parent, recipe: Recipe, options: ForkOptions) -> Schedule:
    """The schedule times √(tokens of a batch / tokens of the batch at the fork), if `batch_lr` is "sqrt".

    The batch at the fork is the user's first one if the user gave a rate, else the parent's last.
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


def _parents(parent: Parent, base: Recipe, options: ForkOptions, warm: int) -> Schedule:
    own = base.schedule
    if own is None:
        raise TrainingError(
            f"the parent's schedule cannot be continued: {parent.no_schedule or 'it is not known'}: {OTHERS}"
        )
    if own.has_ended(parent.step, parent.tokens_seen):
        rate = own.learning_rate(parent.step, parent.tokens_seen)
        raise TrainingError(f"the parent's schedule has ended at a rate of {rate:.6g}: {OTHERS}, and --lr")
    if options.lr is not None and options.peak_lr is not None:
        raise OptionError(
            "the parent's schedule is scaled by lr (its rate at the fork) or by peak_lr, not by both: leave one out"
        )
    now = own.learning_rate(parent.step, parent.tokens_seen)
    if options.lr is not None and not now:
        raise TrainingError("the parent's rate at the fork is 0 and cannot be scaled: choose another --schedule")
    target, current = (options.lr, now) if options.lr is not None else (options.peak_lr, own.scale * own.peak)
    schedule = own if target is None else replace(own, scale=own.scale * target / current)
    return replace(schedule, rewarm_at=parent.step, rewarm_steps=warm) if warm else schedule


def _rates(parent: Parent, base: Recipe, options: ForkOptions) -> tuple[float, float | None]:
    """The rate to hold or to decay from, and the rate where a warm-up to it begins; None for one from 0, or none."""
    now = base.schedule.learning_rate(parent.step, parent.tokens_seen) if base.schedule else parent.rate
    if options.peak_lr is None:
        peak = now if options.lr is None else options.lr
        if peak is None:
            raise TrainingError("the parent's rate at the fork is not known: give --lr")
        if not peak:
            raise TrainingError("the parent's rate at the fork is 0: give --lr, the rate to continue with")
        return peak, None
    if options.lr is None:
        return options.peak_lr, None
    if not options.warmup:
        raise OptionError(
            "lr (the rate at the fork) and peak_lr (the end of the warm-up) need a warm-up between them: give --warmup STEPS"
        )
    return options.peak_lr, options.lr


def _decay_from(steps: int, warm: int, options: ForkOptions) -> int:
    share = options.decay_share or DECAY_SHARE
    decay = max(1, round(share * steps)) if options.decay_steps is None else options.decay_steps
    if warm + decay > steps:
        raise OptionError(
            f"wsd's warm-up and decay must fit the {steps} steps of the fork (got {warm} and {decay}): give fewer, or more "
            "--steps"
        )
    return steps - decay
