"""What a published checkpoint says of how it was trained: the recipe that a fork goes on with, in our own words.

Four forms exist: folders that we wrote (all is there), native OLMo and OLMo-core (moments, schedule, place in the data), and
bare weights (nothing). What a published config leaves open is taken from its trainer's defaults, and said to be assumed.

    >>> parent = read_parent(checkpoint)                                                        # doctest: +SKIP
    >>> parent.form, parent.step, parent.recipe.mean_over, parent.order.skipped                 # doctest: +SKIP
    ('olmo', 40, 'positions', 640)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from olmo_dynamics.checkpoints import Checkpoint, known_run
from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.checkpoint import MOMENTS_FILE, STATE_FILE, SavedState, parse_training_state
from olmo_dynamics.training.orders import Order
from olmo_dynamics.training.parent_core import core_parts
from olmo_dynamics.training.parent_native import native_parts
from olmo_dynamics.training.parent_words import Words
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.schedule import Schedule

LINEAGE_FILE = "lineage.json"


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A checkpoint's past. `recipe.steps` is the step it stands at, at least 1; None where weights are all there is."""

    form: str  # "ours", "olmo", "olmo-core" or "weights"
    step: int
    tokens_seen: int
    recipe: Recipe | None = None
    order: Order | None = None  # as far as it is known: `skipped` counts from it
    position: int = 0  # batches taken since `order`'s place
    has_moments: bool = False
    rate: float | None = None  # the learning rate of its last update, where only the optimiser tells
    no_schedule: str = ""  # why its schedule cannot be continued
    assumed: frozenset[str] = frozenset()  # what its files do not say, by the names of a fork's record
    token_dtype: str | None = None
    unit: int | None = None  # OLMo-core's max_target_sequence_length
    data: tuple[str, ...] = ()  # names of the files it read
    fingerprints: tuple[Mapping[str, str | int], ...] = ()  # of those files, where they are known
    left_out: tuple[str, ...] = ()  # what it did in a step that we do not
    saved: SavedState | None = None


def read_parent(checkpoint: Checkpoint) -> Parent:
    """What this checkpoint knows of its own training.

    Raises: TrainingError for a recipe that we cannot continue; CheckpointError for files that are damaged.
    """
    if STATE_FILE in checkpoint.files:
        saved = parse_training_state(checkpoint.read_file(STATE_FILE), f"{checkpoint.label}: {STATE_FILE}")
        return replace(_ours(saved, _lineage_data(checkpoint)), has_moments=MOMENTS_FILE in checkpoint.files)
    if checkpoint.stored_as is not None and checkpoint.format in ("olmo", "olmo-core"):
        return _published(checkpoint, checkpoint.stored_as.recipe)
    revision = checkpoint.revision
    run = known_run(checkpoint.source)
    tokens = revision.tokens or (run.tokens_at(revision) if run else None)
    return Parent(form="weights", step=revision.step or 0, tokens_seen=tokens or 0)


def _ours(saved: SavedState, data: Sequence[Mapping[str, str | int]]) -> Parent:
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
        data=tuple(str(file["name"]) for file in data),
        fingerprints=tuple(data),
        saved=saved,
    )


def _lineage_data(checkpoint: Checkpoint) -> list[dict[str, str | int]]:
    """The files that a fork of ours read, as it wrote them down; none for a run that began from nothing."""
    if LINEAGE_FILE not in checkpoint.files:
        return []
    lineage = json.loads(checkpoint.read_file(LINEAGE_FILE))
    return list((lineage.get("fork") or {}).get("data") or ())


def _published(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Parent:
    """A directory of either trainer of Ai2."""
    words = Words(checkpoint.label, config, checkpoint.trainer)
    step = words.of_trainer("global_step")
    if step is None:
        step = checkpoint.revision.step
        words.assume("place in the data")
    if step is None:
        raise TrainingError(f"{words.label}: its trainer's state or its name must say its step; neither does")
    optimizer = checkpoint.optimizer
    groups = optimizer.groups if optimizer else ()
    parts = (native_parts if checkpoint.format == "olmo" else core_parts)(words, int(step))
    hyper = _group_words(checkpoint.label, groups) if groups else parts.optimizer
    stuck = bool(optimizer) and set((optimizer.steps if optimizer else {}).values()) == {0.0} and int(step) > 0
    files = parts.data or _listed(checkpoint)
    return Parent(
        form=checkpoint.format,
        step=int(step),
        tokens_seen=parts.tokens_seen,
        recipe=replace(parts.recipe, step_stays_zero=stuck, **hyper),
        order=parts.order,
        has_moments=optimizer is not None,
        rate=float(groups[0]["lr"]) if groups and "lr" in groups[0] else None,
        no_schedule=parts.no_schedule,
        assumed=frozenset(words.assumed) - (frozenset({"betas, eps", "weight decay"}) if groups else frozenset()),
        token_dtype=parts.token_dtype,
        unit=parts.unit,
        data=files,
        left_out=parts.left_out,
    )


def _listed(checkpoint: Checkpoint) -> tuple[str, ...]:
    """OLMo-core's `data_paths.txt`: the files of a mix, which its config names as a whole only."""
    if "data_paths.txt" not in checkpoint.files:
        return ()
    lines = checkpoint.read_file("data_paths.txt").decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _group_words(label: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the groups say of AdamW, in the recipe's words."""
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
