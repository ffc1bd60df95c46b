"""The training of a published checkpoint: the recipe and state that a fork continues, in this library's terms.

Five forms exist: folders that this library wrote (complete), native OLMo and OLMo-core (moments, schedule, data position),
transformers' Trainer (moments, the rate, the step), and bare weights (nothing). A value that a published config leaves open
is its trainer's default, and is noted as assumed.

    >>> parent = read_parent(checkpoint)                                                        # doctest: +SKIP
    >>> parent.form, parent.step, parent.recipe.mean_over, parent.order.skipped                 # doctest: +SKIP
    ('olmo', 40, 'positions', 640)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from olmo_dynamics.checkpoints import Checkpoint, known_run
from olmo_dynamics.checkpoints.identity import LINEAGE_FILE
from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.checkpoint_reader import is_ours, read_lineage, read_saved_state
from olmo_dynamics.training.data.order import DataOrder
from olmo_dynamics.training.parent.config_reader import ConfigReader
from olmo_dynamics.training.parent.olmo import olmo_config
from olmo_dynamics.training.parent.olmo_core import olmo_core_config
from olmo_dynamics.training.parent.transformers_trainer import (
    DEFAULTS,
    TrainerFiles,
    has_trainer_files,
    read_trainer_files,
)
from olmo_dynamics.training.parent.transformers_trainer import STATE_FILE as TRAINER_STATE_FILE
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.saved_state import MOMENTS_FILE, SavedState
from olmo_dynamics.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The past of a checkpoint. `recipe` is None for bare weights; `recipe.steps` is its step, at least 1."""

    form: str  # "ours", "olmo", "olmo-core", "transformers" or "weights"
    step: int
    tokens_seen: int
    recipe: Recipe | None = None
    order: DataOrder | None = None  # if it is known: `skipped` counts from it
    position: int = 0  # batches read since `order`'s position
    has_moments: bool = False
    rate: float | None = None  # the learning rate at the fork, if only the optimiser has it
    settings: Mapping[str, Any] = field(default_factory=dict)  # those of its recipe's fields that bare weights lack
    step_file: str = ""  # the file that has its step, for bare weights
    unread: Mapping[str, str] = field(default_factory=dict)  # files that lie beside its weights: why they are not read
    no_schedule: str = ""  # why its schedule cannot be continued
    assumed: frozenset[str] = frozenset()  # values missing in its files, by their rows in a fork's provenance
    token_dtype: str | None = None
    unit: int | None = None  # OLMo-core's max_target_sequence_length
    data: tuple[str, ...] = ()  # names of the files it read
    fingerprints: tuple[Mapping[str, str | int], ...] = ()  # of those files, if they are known
    left_out: tuple[str, ...] = ()  # its features that a fork does not support
    saved: SavedState | None = None


def read_parent(checkpoint: Checkpoint) -> Parent:
    """Read how this checkpoint was trained.

    Raises:
        TrainingError: the recipe cannot be continued.
        CheckpointError: a file is damaged.
    """
    if is_ours(checkpoint):
        saved = read_saved_state(checkpoint)
        return replace(_ours(saved, _lineage_data(checkpoint)), has_moments=MOMENTS_FILE in checkpoint.files)
    if checkpoint.stored_as is not None and checkpoint.format in ("olmo", "olmo-core"):
        return _published(checkpoint, checkpoint.stored_as.recipe)
    revision = checkpoint.revision
    run = known_run(checkpoint.source)
    tokens = revision.tokens or (run.tokens_at(revision) if run else None)
    bare = Parent(form="weights", step=revision.step or 0, tokens_seen=tokens or 0)
    return _of_trainer(bare, read_trainer_files(checkpoint)) if has_trainer_files(checkpoint) else bare


def _of_trainer(bare: Parent, found: TrainerFiles) -> Parent:
    """Bare weights with the files of transformers' Trainer beside them."""
    return replace(
        bare,
        form="transformers",
        step=bare.step if found.step is None else found.step,
        step_file="" if found.step is None else TRAINER_STATE_FILE,
        tokens_seen=bare.tokens_seen or found.tokens_seen or 0,
        has_moments=found.optimizer is not None,
        rate=found.rate,
        settings={**DEFAULTS, **found.settings},
        unread=found.problems,
    )


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
        order=recipe.order or DataOrder(kind="olmo-core", seed=recipe.seed, epoch=1),
        position=saved.position,
        data=tuple(str(file["name"]) for file in data),
        fingerprints=tuple(data),
        saved=saved,
    )


def _lineage_data(checkpoint: Checkpoint) -> list[dict[str, str | int]]:
    """The files that a fork read, from its lineage; empty for a run from scratch."""
    if LINEAGE_FILE not in checkpoint.files:
        return []
    files = (read_lineage(checkpoint).get("fork") or {}).get("data") or ()
    return list(files)


def _published(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Parent:
    """Read a directory of either trainer of Ai2."""
    reader = ConfigReader(checkpoint.label, config, checkpoint.trainer)
    step = reader.of_trainer("global_step")
    if step is None:
        step = checkpoint.revision.step
        reader.assume("data position")
    if step is None:
        raise TrainingError(f"{reader.label}: its trainer's state or its name must hold its step; neither does")
    optimizer = checkpoint.optimizer
    groups = optimizer.groups if optimizer else ()
    found = (olmo_config if checkpoint.format == "olmo" else olmo_core_config)(reader, int(step))
    hyper = _group_values(checkpoint.label, groups) if groups else found.optimizer
    stuck = bool(optimizer) and set((optimizer.steps if optimizer else {}).values()) == {0.0} and int(step) > 0
    files = found.data or _listed(checkpoint)
    return Parent(
        form=checkpoint.format,
        step=int(step),
        tokens_seen=found.tokens_seen,
        recipe=replace(found.recipe, step_stays_zero=stuck, **hyper),
        order=found.order,
        has_moments=optimizer is not None,
        rate=float(groups[0]["lr"]) if groups and "lr" in groups[0] else None,
        no_schedule=found.no_schedule,
        assumed=frozenset(reader.assumed) - (frozenset({"betas, eps", "weight decay"}) if groups else frozenset()),
        token_dtype=found.token_dtype,
        unit=found.unit,
        data=files,
        left_out=found.left_out,
    )


def _listed(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The files of OLMo-core's `data_paths.txt`, for a mix that its config names only as a whole."""
    if "data_paths.txt" not in checkpoint.files:
        return ()
    lines = checkpoint.read_file("data_paths.txt").decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _group_values(label: str, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """AdamW's hyperparameters of the groups, by the recipe's names."""
    decays = {float(group["weight_decay"]) for group in groups} - {0.0}
    betas, eps = ({str(group[name]) for group in groups} for name in ("betas", "eps"))
    if len(decays) > 1 or len(betas) > 1 or len(eps) > 1:
        raise TrainingError(
            f"{label}: groups may differ only in having weight decay or not (got decays {sorted(decays)}, "
            f"betas {sorted(betas)} and eps {sorted(eps)}): this parent cannot be continued"
        )
    bare = tuple(name for group in groups if not group["weight_decay"] for name in group["params"])
    first = groups[0]
    return {
        "betas": tuple(float(beta) for beta in first["betas"]),
        "eps": float(first["eps"]),
        "weight_decay": max(decays, default=0.0),
        "no_decay": bare,
    }
