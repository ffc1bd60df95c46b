"""What a published checkpoint says of how it was trained: the recipe that a fork goes on with, in our own words.

Four forms exist: folders that we wrote (all is there), native OLMo and OLMo-core (moments, schedule, place in the data), and
bare weights (nothing).

    >>> parent = read_parent(checkpoint)                                                        # doctest: +SKIP
    >>> parent.form, parent.step, parent.recipe.mean_over, parent.order.skipped                 # doctest: +SKIP
    ('olmo', 40, 'positions', 640)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from olmo_dynamics.checkpoints import Checkpoint, known_run
from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.checkpoint import STATE_FILE, SavedState, parse_training_state
from olmo_dynamics.training.orders import Order
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.schedule import Schedule

OLMO_Z_LOSS = 1e-4
"""What OLMo's trainer really multiplies by: it reads `auxiliary_loss_multiplier` and never uses it."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A checkpoint's past. `recipe.steps` is the step it stands at, at least 1; None where weights are all there is."""

    form: str  # "ours", "olmo", "olmo-core" or "weights"
    step: int
    tokens_seen: int
    recipe: Recipe | None = None
    order: Order | None = None  # as far as it is known: `skipped` counts from it
    position: int = 0  # batches taken since `order`'s place
    token_dtype: str | None = None
    unit: int | None = None  # OLMo-core's max_target_sequence_length
    data: tuple[str, ...] = ()  # names of the files it read
    left_out: tuple[str, ...] = ()  # what it did in a step that we do not
    saved: SavedState | None = None


def read_parent(checkpoint: Checkpoint) -> Parent:
    """What this checkpoint knows of its own training.

    Raises: TrainingError for a recipe that we cannot continue; CheckpointError for files that are damaged.
    """
    if STATE_FILE in checkpoint.files:
        return _ours(parse_training_state(checkpoint.read_file(STATE_FILE), f"{checkpoint.label}: {STATE_FILE}"))
    if checkpoint.stored_as is not None and checkpoint.format in ("olmo", "olmo-core") and checkpoint.trainer:
        words, trainer = checkpoint.stored_as.recipe, checkpoint.trainer
        optimizer = checkpoint.optimizer
        groups, steps = (optimizer.groups, set(optimizer.steps.values())) if optimizer else ((), {None})
        read = _native if checkpoint.format == "olmo" else _core
        found = read(words, trainer, _optimizer_words(checkpoint.label, groups))
        stays_zero = steps == {0.0} and found.step > 0
        return replace(found, recipe=replace(found.recipe, step_stays_zero=stays_zero)) if found.recipe else found
    revision = checkpoint.revision
    run = known_run(checkpoint.source)
    tokens = revision.tokens or (run.tokens_at(revision) if run else None)
    return Parent(form="weights", step=revision.step or 0, tokens_seen=tokens or 0)


def _ours(saved: SavedState) -> Parent:
    recipe = saved.recipe
    schedule = recipe.schedule or Schedule(
        peak=recipe.peak_lr, warmup=recipe.warmup_steps, end=recipe.steps, final_fraction=recipe.final_fraction
    )
    return Parent(
        form="ours",
        step=saved.step,
        tokens_seen=saved.tokens_seen,
        recipe=replace(recipe, schedule=schedule),
        order=recipe.order or Order(kind="olmo-core", seed=recipe.seed, epoch=1),
        position=saved.position,
        saved=saved,
    )


def _native(words: Mapping[str, Any], trainer: Mapping[str, Any], optimizer: Mapping[str, Any]) -> Parent:
    """From `config.yaml` and `train.pt`."""
    model, data, batch = words["model"], words.get("data") or {}, int(words["global_train_batch_size"])
    length, step = int(model["max_sequence_length"]), int(trainer["global_step"])
    seed = words.get("seed", 6198) if data.get("seed") is None else data["seed"]
    seen = trainer.get("global_train_examples_seen_this_epoch", trainer.get("global_train_examples_seen"))
    recipe = Recipe(
        steps=max(step, 1),
        sequences_per_step=batch,
        sequence_length=length,
        clip=float(words.get("max_grad_norm") or 1e30),
        z_loss=OLMO_Z_LOSS if words.get("softmax_auxiliary_loss") else 0.0,
        mean_over="positions",
        seed=int(seed),
        schedule=_native_schedule(words["scheduler"], float(words["optimizer"]["learning_rate"])),
        **optimizer,
    )
    left_out = {
        "instance filter": data.get("instance_filter"),
        "label masks": data.get("label_mask_paths"),
        "document masking": data.get("generate_doc_lengths"),
        "clip warm-up": words["scheduler"].get("grad_clip_warmup_steps"),
        "gradient-norm ratio": words.get("max_grad_norm_ratio"),
    }
    return Parent(
        form="olmo",
        step=step,
        tokens_seen=int(trainer.get("global_train_tokens_seen", step * batch * length)),
        recipe=recipe,
        order=Order(
            kind="olmo",
            seed=int(seed),
            epoch=int(trainer.get("epoch") or 0),
            skipped=int(step * batch if seen is None else seen),
        ),
        token_dtype=data.get("memmap_dtype", "uint16"),
        data=tuple(data.get("paths") or ()),
        left_out=tuple(name for name, value in left_out.items() if value),
    )


def _native_schedule(words: Mapping[str, Any], peak: float) -> Schedule:
    name = str(words["name"])
    kind = {"cosine_with_warmup": "cosine", "linear_with_warmup": "linear", "constant": "constant"}.get(name)
    if kind is None or words.get("t_max") is None:
        raise TrainingError(
            f"the parent's schedule must be a known one with its end; got {name}: it cannot be continued"
        )
    least = words.get("warmup_min_lr")
    return Schedule(
        kind=kind,
        units=words.get("units", "steps"),
        peak=peak,
        warmup=float(words.get("t_warmup") or 0),
        warmup_from=0.1 * peak if least is None else float(least),  # a tenth where nothing is said
        end=float(words["t_max"]),
        final_fraction=float(words.get("alpha_f", 0.1)),
    )


def _core(words: Mapping[str, Any], trainer: Mapping[str, Any], optimizer: Mapping[str, Any]) -> Parent:
    """From `config.json` and `train/rank0.pt`."""
    module, loader, step = (
        words.get("train_module") or {},
        trainer.get("data_loader") or {},
        int(trainer["global_step"]),
    )
    tokens, length = int(words["data_loader"]["global_batch_size"]), int(loader["sequence_length"])
    unit = loader.get("max_target_sequence_length") or length
    learning_rate = float((module.get("optim") or words.get("optim") or {})["lr"])
    recipe = Recipe(
        steps=max(step, 1),
        sequences_per_step=tokens // length,
        sequence_length=length,
        clip=float(module.get("max_grad_norm") or 1e30),
        z_loss=float(module.get("z_loss_multiplier") or 0.0),
        seed=int(loader["seed"]),
        schedule=_core_schedule(module.get("scheduler") or {}, learning_rate, trainer.get("max_steps")),
        **optimizer,
    )
    dataset = words.get("dataset") or {}
    left_out = {
        "step skipping (its history is in no checkpoint)": "skip" in str((module.get("optim") or {}).get("type", "")),
        "instance filter": dataset.get("instance_filter_config"),
        "document masking": dataset.get("generate_doc_lengths"),
    }
    done = int(loader["tokens_processed"]) // tokens
    ordered = loader.get("dataset_type") == "fsl"  # the others pack or pad: their order is another one
    return Parent(
        form="olmo-core",
        step=step,
        tokens_seen=int(trainer["global_train_tokens_seen"]),
        recipe=recipe,
        order=Order(
            kind="olmo-core",
            seed=int(loader["seed"]),
            epoch=int(loader["epoch"]),
            skipped=done * (tokens // length),
            block=unit // length,
        )
        if ordered
        else None,
        unit=unit,
        data=tuple(dataset.get("paths") or ()),
        left_out=tuple(name for name, value in left_out.items() if value),
    )


def _core_schedule(words: Mapping[str, Any], peak: float, max_steps: int | None) -> Schedule:
    kinds = {"cos_with_warmup": "cosine", "linear_with_warmup": "linear", "constant": "constant"}
    name = str(words.get("type") or words.get("_CLASS_"))
    kind, end = kinds.get(name), words.get("t_max") or max_steps
    warmup = words.get("warmup", words.get("warmup_steps"))
    units = words.get("units") or "steps"
    if kind is None or end is None or (warmup is None and kind != "constant"):
        raise TrainingError(
            f"the parent's schedule must be a known one with its end; got {name}: it cannot be continued"
        )
    return Schedule(
        kind=kind,
        units=units,
        peak=peak,
        warmup=float(warmup or 0),
        warmup_from=float(words.get("warmup_min_lr") or 0.0),
        end=float(end),
        final_fraction=float(words.get("alpha_f", 0.1)),
    )


def _optimizer_words(label: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the groups say of AdamW, in the recipe's words."""
    if not groups:
        return {}
    decays = {float(group["weight_decay"]) for group in groups} - {0.0}
    betas, eps = ({str(group[name]) for group in groups} for name in ("betas", "eps"))
    if len(decays) > 1 or len(betas) > 1 or len(eps) > 1:
        raise TrainingError(
            f"{label}: groups must differ in no more than having weight decay or none; got decays {sorted(decays)}, "
            f"betas {sorted(betas)} and eps {sorted(eps)}: this parent cannot be continued"
        )
    bare = tuple(name for group in groups if not group["weight_decay"] for name in group["params"])
    first = groups[0]
    return {
        "betas": tuple(float(beta) for beta in first["betas"]),
        "eps": float(first["eps"]),
        "weight_decay": max(decays, default=0.0),
        "no_decay": bare,
    }
