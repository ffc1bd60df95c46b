"""What a fork is going to do, decided before anything is written: the parent's recipe with the user's changes.

Each field of the plan says whether it was restored from the parent, replaced by the user, assumed, or is missing.

    >>> plan = make_plan(parent, config, data=["train.npy"], steps=40, options=Options(lr=1e-4))  # doctest: +SKIP
    >>> plan.recipe.steps, plan.fields[0].status                                                # doctest: +SKIP
    (80, 'restored')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.orders import FIRST_EPOCH, Order, OrderedBatches
from olmo_dynamics.training.parents import Parent
from olmo_dynamics.training.recipe import Recipe, log_spaced
from olmo_dynamics.training.schedule import Schedule
from olmo_dynamics.training.token_files import TokenFiles, dtype_for

SCHEDULES = ("parent", "constant", "linear", "cosine")
MOMENTS = ("parent", "zero", "warm")
WARM_STEPS = 100
"""Steps of re-warm-up that `moments="warm"` means where none are given: AdamW's second moment averages over about 20."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a fork does otherwise than its parent; None goes on as the parent did.

    `lr` is the rate at the fork. `parent_loss` is what the parent logged for its next step, `save` counts steps after the fork.

    `schedule`: "parent" (its curve, scaled so that it passes `lr` at the fork), "constant", "linear" (to 0 at the end) or
    "cosine" (to a tenth at the end). `warmup`: steps from 0 back up to it.
    """

    order: str = "parent"
    moments: str | None = None
    lr: float | None = None
    schedule: str | None = None
    warmup: int | None = None
    batch: tuple[int, int] | None = None  # sequences, tokens of each
    seed: int | None = None
    z_loss: float | None = None
    weight_decay: float | None = None
    clip: float | None = None
    freeze: tuple[str, ...] = ()
    data_dtype: str | None = None
    save: tuple[int, ...] | None = None  # steps after the fork
    keep: int | None = None  # so many of the latest checkpoints
    workers: int | None = None
    tokenizer: str | None = None
    parent_loss: float | None = None
    accept_loss_jump: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("order", ("parent", *FIRST_EPOCH)), ("moments", MOMENTS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise OptionError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
        for name in ("lr", "warmup", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise OptionError(f"{name} must be at least 0; got {value}")

    def given(self) -> dict[str, Any]:
        """Those that differ from their defaults."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) != each.default
        }


@dataclass(frozen=True, slots=True)
class Field:
    """One line of a fork's record; status is "restored", "replaced", "assumed" or "missing"."""

    name: str
    status: str
    value: str


@dataclass(frozen=True)
class Plan:
    """A fork that has not begun."""

    recipe: Recipe
    moments: str
    batches: OrderedBatches
    fields: tuple[Field, ...]

    def to_json(self) -> dict[str, Any]:
        """What must be the same for an interrupted fork to go on; data by name and size, as OLMo-core knows its own."""
        files = self.batches.files
        data = [
            {"name": path.name, "bytes": array.nbytes} for path, array in zip(files.paths, files.arrays, strict=True)
        ]
        return {"recipe": self.recipe.to_json(), "moments": self.moments, "data": data}


def make_plan(parent: Parent, config: ModelConfig, *, data: Sequence[str | Path], steps: int, options: Options) -> Plan:
    """The plan of `steps` more updates on `data`.

    Raises: TrainingError where the parent does not know what the plan needs and the options do not say it.
    """
    if steps < 1 or not data:
        raise OptionError(f"a fork wants at least 1 step and 1 file of tokens; got {steps} and {len(data)}")
    base = _base(parent, options)
    sequences, length = options.batch or (base.sequences_per_step, base.sequence_length)
    if length > config.max_positions:
        raise TrainingError(
            f"sequences may be {config.max_positions} long for this model; got {length}: choose a shorter --batch"
        )
    dtype = options.data_dtype or parent.token_dtype or dtype_for(config.vocab_size)
    unit = parent.unit if parent.unit and parent.unit % length == 0 else None
    files = TokenFiles.open(data, length=length, dtype=dtype, unit=unit)
    order = _order(parent, files, base, options)
    moments = _moments(parent, options)
    warm = WARM_STEPS if moments == "warm" and options.warmup is None else options.warmup or 0
    recipe = replace(
        base,
        steps=parent.step + steps,
        sequences_per_step=sequences,
        sequence_length=length,
        schedule=_schedule(parent, base, steps, options=options, warm=warm),
        warmup_steps=0,
        order=order,
        save_at=_save_at(parent.step, steps, options.save),
        frozen=options.freeze or base.frozen,
        step_stays_zero=base.step_stays_zero and moments == "parent",
        **{
            name: getattr(options, name)
            for name in ("z_loss", "weight_decay", "clip", "seed", "workers")
            if getattr(options, name) is not None
        },
    )
    plan = Plan(recipe, moments, OrderedBatches(files, order, sequences), ())
    return replace(plan, fields=tuple(_record(parent, plan, options)))


def _base(parent: Parent, options: Options) -> Recipe:
    """The parent's recipe, or one of defaults where it is not known and the user gave what has no default."""
    if parent.recipe is not None:
        return parent.recipe
    if options.lr is None or options.batch is None:
        raise TrainingError(
            "bare weights say nothing of how they were trained: give --lr (the rate at the fork) and --batch BxT"
        )
    return Recipe(steps=max(parent.step, 1), peak_lr=options.lr, clip=1.0)


def _moments(parent: Parent, options: Options) -> str:
    if options.moments is None and parent.form == "weights":
        raise TrainingError(
            "AdamW's moments were not published with these weights: choose --moments zero (they start at 0) or "
            f"--moments warm (the same, and the learning rate climbs from 0 over --warmup steps, {WARM_STEPS} unless given)"
        )
    if options.moments == "parent" and parent.form == "weights":
        raise TrainingError("AdamW's moments were not published with these weights: choose --moments zero or warm")
    return options.moments or "parent"


def _order(parent: Parent, files: TokenFiles, base: Recipe, options: Options) -> Order:
    """The order, and the place in it where the fork begins."""
    kind, known = options.order, parent.order
    if kind in ("parent", known.kind if known else None) and known is not None:
        if parent.position:  # a run of ours counts batches from where it began
            epoch, skipped = OrderedBatches(files, known, base.sequences_per_step).place(parent.position)
            known = replace(known, epoch=epoch, skipped=skipped)
        return (
            known if options.seed is None else Order(kind=known.kind, seed=options.seed, epoch=FIRST_EPOCH[known.kind])
        )
    if kind == "parent":
        raise TrainingError(
            "the parent's place in its data is not known: choose --order olmo, olmo-core, sequential or shuffled"
        )
    return Order(kind=kind, seed=base.seed if options.seed is None else options.seed, epoch=FIRST_EPOCH[kind])


def _schedule(parent: Parent, base: Recipe, steps: int, *, options: Options, warm: int) -> Schedule:
    own = base.schedule
    now = own.learning_rate(parent.step, parent.tokens_seen) if own else 0.0
    kind = options.schedule or ("parent" if own else "constant")
    if kind == "parent":
        if own is None:
            raise TrainingError("the parent's schedule is not known: choose --schedule constant, linear or cosine")
        if options.lr is not None and not now:
            raise TrainingError("the parent's rate at the fork is 0 and cannot be scaled: choose another --schedule")
        if not own.learning_rate(parent.step + 1, parent.tokens_seen + base.tokens_per_step):
            raise TrainingError(
                "the parent's schedule has come to its end, a rate of 0: choose --schedule constant, linear or cosine, and --lr"
            )
        schedule = own if options.lr is None else replace(own, scale=own.scale * options.lr / now)
    else:
        final = {"constant": 1.0, "linear": 0.0, "cosine": 0.1}[kind]
        peak = now if options.lr is None else options.lr
        schedule = Schedule(kind=kind, begin=parent.step, peak=peak, end=steps, final_fraction=final)
    return replace(schedule, rewarm_at=parent.step, rewarm_steps=warm) if warm else schedule


def _save_at(step: int, steps: int, save: tuple[int, ...] | None) -> tuple[int, ...]:
    """The fork itself, its end, and what was asked between: log-spaced where nothing was."""
    chosen = log_spaced(steps, min(12, steps + 1)) if save is None else tuple(sorted({0, *save, steps}))
    if chosen[0] < 0 or chosen[-1] > steps:
        raise OptionError(f"save wants steps after the fork within 0..{steps}; got {list(save or ())}")
    return tuple(step + each for each in chosen)


def _record(parent: Parent, plan: Plan, options: Options) -> list[Field]:
    recipe, known = plan.recipe, parent.recipe is not None

    def field(name: str, value: object, *replacing: str) -> Field:
        replaced = any(each in options.given() for each in replacing)
        return Field(name, "replaced" if replaced else "restored" if known else "assumed", str(value))

    order, first = plan.batches.order, parent.step + 1
    rate = recipe.learning_rate(first, parent.tokens_seen + recipe.tokens_per_step)
    found = [
        Field("weights", "restored", "float32 masters"),
        Field("moments", "restored", "with their steps as stored")
        if plan.moments == "parent"
        else Field("moments", "missing" if parent.form == "weights" else "replaced", "zero"),
        field("schedule", recipe.schedule, "schedule", "lr", "warmup"),
        field("learning rate", f"{rate:.6g} at step {first}", "schedule", "lr", "warmup", "moments"),
        field("batch", f"{recipe.sequences_per_step}x{recipe.sequence_length}", "batch"),
        field("betas, eps", f"{recipe.betas}, {recipe.eps}"),
        field("weight decay", f"{recipe.weight_decay}, none on {len(recipe.no_decay)} parameters", "weight_decay"),
        field("clip", recipe.clip, "clip"),
        field("z-loss", recipe.z_loss, "z_loss"),
        field("loss", f"mean over {recipe.mean_over}"),
        _data_field(parent, plan),
        Field(
            "place in the data",
            "restored" if options.order == "parent" and options.seed is None else "replaced",
            f"{order.kind}, seed {order.seed}, epoch {order.epoch}, after {order.skipped} sequences",
        ),
        Field("random state", "restored" if parent.saved else "missing", "nothing draws from it"),
    ]
    if recipe.step_stays_zero:
        found.append(
            Field("AdamW's step", "restored", "0 for ever, as its optimiser left it: bias corrections stay the first")
        )
    if recipe.frozen:
        found.append(Field("frozen", "replaced", ", ".join(recipe.frozen)))
    return found + [Field(name, "missing", "the parent did this; the fork does not") for name in parent.left_out]


def _data_field(parent: Parent, plan: Plan) -> Field:
    """Whether the files bear the names of the parent's: what is in them only the first loss can tell."""
    names = [path.name for path in plan.batches.files.paths]
    theirs = [name.rpartition("/")[2] for name in parent.data]
    status = "assumed" if not theirs else "restored" if names == theirs else "replaced"
    return Field("data", status, f"{len(names)} files, {plan.batches.files.token_count:,} tokens, {names[0]} first")
