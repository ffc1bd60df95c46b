"""Restoring of a parent as a live `TrainState`: weights and moments by canonical name, in float32.

>>> state = restore_state(checkpoint, parent, recipe, moments="parent")                     # doctest: +SKIP
>>> state.step                                                                              # doctest: +SKIP
40
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.errors import TrainingError
from olmo_dynamics.model import LanguageModel, build_model, check_shapes, missing_head, resolve_config, to_tensor
from olmo_dynamics.training.parent.parent import Parent
from olmo_dynamics.training.parent.transformers_trainer import OPTIMIZER_FILE, read_optimizer
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.saved_state import MOMENTS_FILE
from olmo_dynamics.training.state import TrainState, build_optimizer

Moments = Mapping[str, Mapping[str, Tensor]]
"""By parameter: `exp_avg`, `exp_avg_sq` and `step`, as torch's AdamW keeps them."""


def restore_state(checkpoint: Checkpoint, parent: Parent, recipe: Recipe, *, moments: str) -> TrainState:
    """Restore the parent's weights and counters, and its moments if `moments` is "parent".

    Raises:
        TrainingError: moments are missing or have another shape.
        ShapeError: weights are missing or have another shape.
    """
    model = load_weights(checkpoint)
    generator = parent.saved.generator if parent.saved else torch.Generator().manual_seed(recipe.seed)
    state = TrainState(model, build_optimizer(model, recipe), generator, parent.step, parent.tokens_seen)
    if parent.saved:
        state.loss, state.history = parent.saved.loss, parent.saved.history
    if moments == "parent":
        _restore(state, read_moments(checkpoint), checkpoint.label)
    return state


def load_weights(checkpoint: Checkpoint) -> LanguageModel:
    """Load the model on the CPU in float32, whatever the dtype of its stored weights."""
    config = resolve_config(checkpoint.config, checkpoint.tensors, checkpoint.read_many)
    if not config.has_head:
        raise TrainingError(
            f"{checkpoint.label} must have a language-model head to be trained "
            f"({missing_head(checkpoint.config, checkpoint.tensors)}): fork a language model"
        )
    check_shapes(config, checkpoint.tensors)
    model = build_model(config, device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            info = checkpoint.tensors[name]
            parameter.copy_(to_tensor(checkpoint.read(info), info))
    return model


def read_moments(checkpoint: Checkpoint) -> Moments:
    """Read AdamW's state as the checkpoint stores it, with its steps; empty if there is none.

    Raises:
        TrainingError: a file is damaged.
    """
    if MOMENTS_FILE in checkpoint.files:
        found: dict[str, dict[str, Tensor]] = {}
        try:
            stored = load(checkpoint.read_file(MOMENTS_FILE))
        except SafetensorError as error:
            raise TrainingError(
                f"{checkpoint.label}: {MOMENTS_FILE} is damaged ({error}): choose another revision, or copy this one again"
            ) from None
        for key, tensor in stored.items():
            name, _, kind = key.rpartition(".")
            found.setdefault(name, {})[kind] = tensor
        return found
    optimizer = checkpoint.optimizer
    if optimizer is None and OPTIMIZER_FILE in checkpoint.files:
        optimizer = read_optimizer(checkpoint)
    if optimizer is None:
        return {}
    moments: dict[str, dict[str, Tensor]] = {
        name: {"step": torch.tensor(step, dtype=torch.float32)} for name, step in optimizer.steps.items()
    }
    for kind, tensors in optimizer.moments.items():
        for name, info in tensors.infos.items():
            values = to_tensor(tensors.read_many([name])[name], info)
            moments[name][kind] = values.to(torch.float32, copy=True)
    return moments


def _restore(state: TrainState, moments: Moments, label: str) -> None:
    for name, parameter in state.model.named_parameters():
        if not parameter.requires_grad:
            continue
        kinds = moments.get(name)
        given = {kind: tuple(tensor.shape) for kind, tensor in (kinds or {}).items()}
        shape = tuple(parameter.shape)
        if kinds is None or given != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
            raise TrainingError(
                f"{label}: {name} must have a step and two moments of shape {list(shape)} (got {given or 'none'}): "
                "choose --moments zero or warm"
            )
        state.optimizer.state[parameter] = {kind: tensor.clone() for kind, tensor in kinds.items()}
