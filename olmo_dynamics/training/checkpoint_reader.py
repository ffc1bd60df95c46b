"""Reading of checkpoint folders that training wrote: verified by their hashes, the newest sound one first.

>>> found = read_newest(Path("forks/a"))                                                    # doctest: +SKIP
>>> found.folder.name, found.state.step, found.notes                                        # doctest: +SKIP
('step60-tokens122880', 60, ())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from olmo_dynamics.checkpoints import Checkpoint, parse_revision
from olmo_dynamics.checkpoints.file_hashes import SUMS_FILE, read_sums, verify_files
from olmo_dynamics.checkpoints.folder import FolderCheckpoint
from olmo_dynamics.checkpoints.identity import LINEAGE_FILE
from olmo_dynamics.checkpoints.tensors import parse_object
from olmo_dynamics.errors import CheckpointError, IntegrityError
from olmo_dynamics.model import build_model, load_model_weights, parse_config
from olmo_dynamics.training.checkpoint import CONFIG_FILE, WEIGHTS_FILE, written_checkpoints
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.saved_state import MOMENTS_FILE, STATE_FILE, SavedState, parse_training_state
from olmo_dynamics.training.state import TrainState, build_optimizer

MAX_JSON_BYTES = 64 << 20  # 64 MiB; a lineage names every data file of a fork

_NEEDED = (CONFIG_FILE, LINEAGE_FILE, STATE_FILE, WEIGHTS_FILE, MOMENTS_FILE)
_LARGE = (WEIGHTS_FILE, MOMENTS_FILE)


@dataclass(frozen=True)
class Resumed:
    """A state to resume from, with its lineage; `damaged` names newer checkpoints that were left out."""

    folder: Path
    state: TrainState
    lineage: Mapping[str, Any]
    damaged: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def read_checkpoint(folder: Path) -> tuple[TrainState, Recipe]:
    """Read the state and recipe that `write_checkpoint` wrote; training on from them repeats the first run bit for bit.

    Raises:
        CheckpointError: the folder has no training state, or a damaged one.
        TrainingError: the state is of a later version.
    """
    with open_written(folder) as checkpoint:
        saved = read_saved_state(checkpoint, whole=True)
        verify_large_files(checkpoint)
        return _read_state(checkpoint, folder, saved), saved.recipe


def read_newest(run: Path, check: Callable[[Mapping[str, Any]], None] = lambda lineage: None) -> Resumed | None:
    """Read the newest sound checkpoint of a run, None if it has none; `check` is given its lineage, and may refuse it.

    Raises:
        CheckpointError: every checkpoint is damaged.
        TrainingError: the state is of a later version.
    """
    folders = written_checkpoints(run)
    damage: dict[str, CheckpointError] = {}
    for folder in reversed(folders):
        try:
            with open_written(folder) as checkpoint:
                saved, lineage = read_saved_state(checkpoint, whole=True), read_lineage(checkpoint)
                check(lineage)
                verify_large_files(checkpoint)
                state = _read_state(checkpoint, folder, saved)
                unverified = SUMS_FILE not in checkpoint.files
        except CheckpointError as problem:
            damage[folder.name] = problem
            continue
        notes = [f"left out a checkpoint, resuming from {folder.name} before it: {each}" for each in damage.values()]
        if unverified:
            notes.append(f"{folder.name} has no {SUMS_FILE} (version 0.1.0 wrote none): resuming from it unverified")
        return Resumed(folder, state, lineage, frozenset(damage), tuple(notes))
    if damage:
        newest = next(iter(damage.values()))
        raise CheckpointError(
            f"{run} must hold a sound checkpoint to resume from, but all {len(damage)} are damaged: choose another --out, or "
            f"delete them to begin again; the newest: {newest}"
        )
    return None


def open_written(folder: Path) -> Checkpoint:
    """Open one checkpoint folder of a run."""
    return FolderCheckpoint(str(folder.parent), parse_revision(folder.name), folder)


def is_ours(checkpoint: Checkpoint) -> bool:
    """True if training of this library wrote it, damaged or not."""
    return STATE_FILE in checkpoint.files or SUMS_FILE in checkpoint.files


def read_saved_state(checkpoint: Checkpoint, *, whole: bool = False) -> SavedState:
    """Read the counters and the recipe, and verify every file but weights and moments.

    A fork needs no tokenizer of its parent, so that one may be missing unless the checkpoint must be `whole`.

    Raises:
        CheckpointError: a file is missing or damaged.
        TrainingError: the state is of a later version.
    """
    sums = read_sums(checkpoint)
    if sums:
        missing = {name for name in _LARGE if name not in checkpoint.files}
        listed = {name for name in sums if whole or name in checkpoint.files}
        verify_files(checkpoint, sums, sorted({*_NEEDED, *listed}.difference(_LARGE) | missing))
    if STATE_FILE not in checkpoint.files:
        raise CheckpointError(
            f"{checkpoint.label}: resuming needs {STATE_FILE}, which is missing: choose a checkpoint folder that training wrote"
        )
    saved = parse_training_state(_read_json(checkpoint, STATE_FILE), f"{checkpoint.label}: {STATE_FILE}")
    if saved.version > 1 and not sums:
        raise IntegrityError(
            f"{checkpoint.label}: {SUMS_FILE} is missing: choose another checkpoint, or copy this one again"
        )
    return saved


def verify_large_files(checkpoint: Checkpoint) -> None:
    """Verify weights and moments, where the checkpoint has hashes; they are read whole.

    Raises:
        IntegrityError: one of them is damaged.
    """
    sums = read_sums(checkpoint)
    if sums:
        verify_files(checkpoint, sums, _LARGE)


def read_lineage(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read `lineage.json`.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return parse_object(_read_json(checkpoint, LINEAGE_FILE), f"{checkpoint.label}: {LINEAGE_FILE}", CheckpointError)


def _read_json(checkpoint: Checkpoint, name: str) -> bytes:
    size = checkpoint.files.get(name, 0)
    if size > MAX_JSON_BYTES:
        raise CheckpointError(f"{checkpoint.label}: {name} must have at most {MAX_JSON_BYTES} bytes (got {size})")
    return checkpoint.read_file(name)


def _read_state(checkpoint: Checkpoint, folder: Path, saved: SavedState) -> TrainState:
    model = build_model(parse_config(checkpoint.config), device="cpu")
    load_model_weights(model, _tensors(checkpoint, folder, WEIGHTS_FILE))
    optimizer = build_optimizer(model, saved.recipe)
    state = TrainState(model, optimizer, saved.generator, saved.step, saved.tokens_seen, saved.position, saved.loss)
    state.history = saved.history
    _restore_moments(state, _tensors(checkpoint, folder, MOMENTS_FILE), checkpoint.label)
    return state


def _tensors(checkpoint: Checkpoint, folder: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(folder / name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{checkpoint.label}: {name} is damaged ({error}): delete this checkpoint and resume from an earlier one"
        ) from None


def _restore_moments(state: TrainState, moments: Mapping[str, Tensor], label: str) -> None:
    parameters = dict(state.model.named_parameters())
    remedy = "delete this checkpoint and resume from an earlier one"
    for key, tensor in moments.items():
        name, _, kind = key.rpartition(".")
        shape = None if name not in parameters else () if kind == "step" else tuple(parameters[name].shape)
        if shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{label}: {MOMENTS_FILE}: {key} must have the shape {list(shape) if shape is not None else 'of a parameter'} "
                f"(got {list(tensor.shape)}): {remedy}"
            )
        state.optimizer.state[parameters[name]][kind] = tensor.clone()
    for name, parameter in parameters.items() if moments else ():
        if parameter.requires_grad and len(state.optimizer.state[parameter]) != 3:
            raise CheckpointError(
                f"{label}: {MOMENTS_FILE}: {name} must have a step and two moments (got "
                f"{sorted(state.optimizer.state[parameter]) or 'none'}): {remedy}"
            )
