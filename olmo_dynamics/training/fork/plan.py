"""The plan of a fork, decided before anything is written: the parent's recipe with the user's changes.

>>> plan = plan_fork(parent, config, data=files, steps=40, options=ForkOptions(lr=1e-4))        # doctest: +SKIP
>>> plan.recipe.steps, plan.fields[0].status                                                # doctest: +SKIP
(80, 'restored')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.model import ModelConfig, expected_shapes
from olmo_dynamics.probes.token_sources import fingerprint
from olmo_dynamics.training.data.data_files import DataFiles
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.data.masks import LabelMask, Repeats
from olmo_dynamics.training.data.mixture import MixtureSampler, quotas
from olmo_dynamics.training.data.order import FIRST_EPOCH, DataOrder
from olmo_dynamics.training.data.sampler import Sampler
from olmo_dynamics.training.fork.lr_schedule import fork_schedule, scale_by_batch
from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.fork.provenance import Field, Provenance
from olmo_dynamics.training.fork.weight_edits import Shapes, check_edits, describe_edits, no_match
from olmo_dynamics.training.parent.parent import Parent
from olmo_dynamics.training.parent.transformers_trainer import OPTIMIZER_FILE
from olmo_dynamics.training.recipe import Recipe, log_spaced
from olmo_dynamics.training.state import matches

WARM_STEPS = 100
"""Default warm-up of `moments="warm"`, in steps: AdamW's second moment averages over about 20."""

ORDERS = "--order olmo, olmo-core, sequential or shuffled"


@dataclass(frozen=True)
class ForkPlan:
    """A planned fork."""

    model: ModelConfig
    recipe: Recipe
    moments: str
    batches: Sampler | MixtureSampler
    fields: tuple[Field, ...]
    edits: tuple[str, ...] = ()
    begin: int = 0  # the parent's step
    tokenizer_json: bytes | None = None
    notes: tuple[str, ...] = ()  # about the checkpoint that it resumes from, for the user

    def to_json(self) -> dict[str, Any]:
        """The values that must be equal to resume a stopped fork; files by name, size, and the hash of their ends."""
        data = [fingerprint(source) for source in self.batches.sources]
        return {"recipe": self.recipe.to_json(), "moments": self.moments, "edits": list(self.edits), "data": data}


def plan_fork(parent: Parent, config: ModelConfig, *, data: DataFiles, steps: int, options: ForkOptions) -> ForkPlan:
    """Plan `steps` more updates on `data`.

    Raises:
        TrainingError: the plan needs a value that neither the parent nor the options have.
        OptionError: options contradict each other, the parent or the model.
    """
    if steps < 1:
        raise OptionError(f"steps must be at least 1 (got {steps})")
    shapes = expected_shapes(config)
    _check_names(options, shapes)
    check_edits(options, shapes, config.hidden_size)
    base, moments = _base(parent, options), _moments(parent, options)
    recipe = _changed(parent, base, steps=steps, options=options)
    if recipe.sequence_length > config.max_positions:
        raise TrainingError(
            f"sequences of this model must have at most {config.max_positions} tokens (got {recipe.sequence_length}): choose a "
            "shorter --batch"
        )
    warm = WARM_STEPS if moments == "warm" and options.warmup is None else options.warmup or 0
    schedule = fork_schedule(parent, base, steps=steps, options=options, warm=warm)
    recipe = replace(
        recipe,
        schedule=scale_by_batch(schedule, parent, recipe, options),
        no_decay=_no_decay(base, options, shapes),
        step_stays_zero=base.step_stays_zero and moments == "parent",
        mixture=data.weights,
    )
    mask = LabelMask(end_of_text=_end_of_text(config), documents=recipe.mask_documents, repeats=recipe.repeats)
    batches = _batches(parent, data, recipe=recipe, mask=mask, options=options, vocab_size=config.vocab_size)
    recipe = replace(recipe, order=batches.order)
    _check_end(batches, steps)
    provenance = Provenance(
        parent=parent, recipe=recipe, options=options, moments=moments, has_experts=config.experts is not None
    )
    fields = provenance.fields(data=_data_field(parent, data), position=str(batches))
    return ForkPlan(config, recipe, moments, batches, fields, tuple(describe_edits(options)), parent.step)


def _base(parent: Parent, options: ForkOptions) -> Recipe:
    """The parent's recipe, or one of defaults if it is unknown and the user gave the values without a default."""
    if parent.recipe is not None:
        return parent.recipe
    if options.batch is None and parent.rate is not None:
        raise TrainingError("transformers' Trainer does not store its batch: give --batch BxT")
    if (options.lr is None and options.peak_lr is None and parent.rate is None) or options.batch is None:
        raise TrainingError("bare weights have no recipe: give --lr (the rate at the fork) and --batch BxT")
    return Recipe(steps=max(parent.step, 1), clip=1.0, **parent.settings)


def _moments(parent: Parent, options: ForkOptions) -> str:
    if parent.has_moments:
        return options.moments or "parent"
    why = next((f"{name} is not read: {why}" for name, why in parent.unread.items() if name == OPTIMIZER_FILE), "")
    problem = (
        f"AdamW's moments are not known ({why})" if why else "AdamW's moments were not published with these weights"
    )
    if options.moments is None:
        raise TrainingError(
            f"{problem}: choose --moments zero (they start at 0) or --moments warm (the same, and the learning rate climbs "
            f"from 0 over --warmup steps, {WARM_STEPS} unless given)"
        )
    if options.moments == "parent":
        raise TrainingError(f"{problem}: choose --moments zero or warm")
    return options.moments


def _changed(parent: Parent, base: Recipe, *, steps: int, options: ForkOptions) -> Recipe:
    """The recipe with all changes but those of its schedule, its groups and its data."""
    sizes = base.sizes.later(parent.position)
    sequences, length = options.batch or (sizes.first, base.sequence_length)
    growth = options.batch_warmup or (() if options.batch else sizes.growth)
    if options.batch_warmup and growth[-1][0] >= steps:
        raise OptionError(f"steps of batch_warmup must be below the {steps} of the fork (got {growth[-1][0]})")
    if options.batch_warmup and growth[0][1] <= sequences:
        raise OptionError(f"sequences of batch_warmup must be above the first batch's {sequences} (got {growth[0][1]})")
    repeats = base.repeats
    if options.mask_repeated_ngrams is not None:
        repeats = (base.repeats or Repeats()) if options.mask_repeated_ngrams else None
    return replace(
        base,
        steps=parent.step + steps,
        sequences_per_step=sequences,
        sequence_length=length,
        batch_growth=growth,
        warmup_steps=0,
        save_at=_save_at(parent.step, steps, options.save),
        frozen=options.freeze or base.frozen,
        repeats=repeats,
        **options.of_recipe(),
    )


def _check_names(options: ForkOptions, shapes: Shapes) -> None:
    """Check that globs match parameters, and that not all are frozen."""
    for what, globs in (("freeze", options.freeze), ("decay", options.decay), ("no_decay", options.no_decay)):
        for glob in globs:
            if not any(matches(name, [glob]) for name in shapes):
                raise OptionError(no_match(what, glob, shapes))
    if options.freeze and all(matches(name, options.freeze) for name in shapes):
        raise OptionError(f"at least one parameter must not be frozen; {', '.join(options.freeze)} freezes all")


def _no_decay(base: Recipe, options: ForkOptions, shapes: Shapes) -> tuple[str, ...]:
    if options.decay:
        return tuple(name for name in shapes if not matches(name, options.decay))
    return options.no_decay or base.no_decay


def _end_of_text(config: ModelConfig) -> int | None:
    ends = config.eos_token_id
    return ends[0] if isinstance(ends, tuple) else ends


def _batches(
    parent: Parent, data: DataFiles, *, recipe: Recipe, mask: LabelMask, options: ForkOptions, vocab_size: int
) -> Sampler | MixtureSampler:
    length = recipe.sequence_length
    if mask.documents and mask.end_of_text is None:
        raise TrainingError(
            "mask_documents needs the token that ends documents; the model's config has no eos_token_id"
        )
    if data.weights:
        parts = tuple(TokenFiles.cut([source], length=length, vocab_size=vocab_size) for source in data.sources)
        return MixtureSampler(parts, data.weights, _mixed_order(parent, data, recipe, options), recipe.sizes, mask)
    unit = parent.unit if parent.unit and parent.unit % length == 0 else None
    files = TokenFiles.cut(data.sources, length=length, unit=unit, vocab_size=vocab_size)
    return Sampler(files, _order(parent, data, files, options, recipe), recipe.sizes, mask)


def _order(parent: Parent, data: DataFiles, files: TokenFiles, options: ForkOptions, recipe: Recipe) -> DataOrder:
    """The order, and the position in it where the fork begins."""
    kind, known = options.order, parent.order
    if kind in ("parent", known.kind if known else None) and known is not None and options.seed is None:
        _check_same(parent, data)
        _check_length(parent, recipe)
        if not parent.position:
            return known
        assert parent.recipe is not None  # our runs count batches from their beginning
        epoch, skipped = Sampler(files, known, parent.recipe.sizes).place(parent.position)
        return replace(known, epoch=epoch, skipped=skipped)
    if kind == "parent":
        if known is None:
            raise TrainingError(f"the parent's data position is not known: choose {ORDERS}")
        kind = known.kind
    return DataOrder(kind=kind, seed=recipe.seed, epoch=FIRST_EPOCH[kind])


def _mixed_order(parent: Parent, data: DataFiles, recipe: Recipe, options: ForkOptions) -> DataOrder:
    base = parent.recipe
    if options.order == "parent" and options.seed is None and parent.order and base and base.mixture == data.weights:
        _check_same(parent, data)
        _check_length(parent, recipe)
        return replace(parent.order, skipped=parent.order.skipped + base.sizes.before(parent.position))
    if options.order not in ("sequential", "shuffled"):
        raise OptionError(
            f"the order of mixed files must be shuffled or sequential, within each file (got {options.order})"
        )
    quotas(data.weights)
    return DataOrder(kind=options.order, seed=recipe.seed, epoch=FIRST_EPOCH[options.order])


def _check_same(parent: Parent, data: DataFiles) -> None:
    """Check that these files are the parent's, if those are known."""
    if not parent.data:
        return
    theirs, names = [_file_name(name) for name in parent.data], [_file_name(each.name) for each in data.sources]
    if parent.fingerprints:
        ours = [fingerprint(source) for source in data.sources]
        pairs = zip(ours, parent.fingerprints, strict=False)
        same = len(ours) == len(theirs) and all({**one, **other} == {**other, **one} for one, other in pairs)
    else:
        same = names == theirs
    if not same:
        raise TrainingError(
            f"order parent needs the parent's {len(theirs)} files in its order, {theirs[0]} first (got {len(names)}, {names[0]} "
            f"first{'' if names != theirs else ', with other contents'}): give those, or choose {ORDERS}"
        )


def _check_length(parent: Parent, recipe: Recipe) -> None:
    """Check that sequences are as long as those that the parent's data position counts."""
    if parent.recipe is not None and recipe.sequence_length != parent.recipe.sequence_length:
        raise OptionError(
            f"the parent's data position counts sequences of {parent.recipe.sequence_length} tokens, but --batch has "
            f"{recipe.sequence_length}: choose another --order, or a --seed, to read the data from their beginning"
        )


def _check_end(batches: Sampler | MixtureSampler, steps: int) -> None:
    """Check that sequential data suffice: they are read once; every other order begins another epoch."""
    if isinstance(batches, MixtureSampler) or batches.order.kind != "sequential":
        return
    epoch, _ = batches.place(steps - 1)
    if epoch > batches.order.epoch:
        whole = next(step for step in range(steps) if batches.place(step)[0] > batches.order.epoch)
        raise TrainingError(
            f"the data end after {whole} of the {steps} steps of this fork: give more data, fewer --steps, or --order "
            "shuffled, which begins another epoch"
        )


def _save_at(step: int, steps: int, save: tuple[int, ...] | None) -> tuple[int, ...]:
    """The steps to save at: the fork, its end, and the given ones between, log-spaced by default."""
    chosen = log_spaced(steps, min(12, steps + 1)) if save is None else tuple(sorted({0, *save, steps}))
    if chosen[0] < 0 or chosen[-1] > steps:
        raise OptionError(f"save must be steps after the fork within 0..{steps} (got {list(save or ())})")
    return tuple(step + each for each in chosen)


def _data_field(parent: Parent, data: DataFiles) -> Field:
    """The row of the data: restored if the files have the names of the parent's."""
    names: Sequence[str] = [_file_name(source.name) for source in data.sources]
    theirs = [_file_name(name) for name in parent.data]
    status = "assumed" if not theirs else "restored" if names == theirs else "replaced"
    mixed = f", mixed {':'.join(map(str, quotas(data.weights)))}" if data.weights else ""
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    return Field("data", status, f"{files}, {data.token_count:,} tokens, {names[0]} first{mixed}")


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]
