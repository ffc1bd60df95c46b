"""The state of a run, all that resuming needs in one object: model, optimiser, counters, place in the data, random state.

>>> state = new_state(config, recipe)
>>> state.step, state.tokens_seen
(0, 0)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.model import LanguageModel, ModelConfig, build_model, init_weights
from olmo_dynamics.training.recipe import EMBEDDING, Recipe
from olmo_dynamics.training.spikes import History

__all__ = ["EMBEDDING", "TrainState", "build_optimizer", "move_state", "new_state"]


@dataclass
class TrainState:
    """What changes while training. `step` updates were applied, which saw `tokens_seen` tokens.

    `position` counts the batches taken from the data; it is not `step` where a run was forked onto other data. Whatever
    draws random numbers while training draws from `generator` (the loop draws none), so a resumed run goes on with them.
    """

    model: LanguageModel
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    step: int = 0
    tokens_seen: int = 0
    position: int = 0
    loss: float = math.nan  # cross-entropy of the last update, nats per token
    history: History = field(default_factory=History)  # kept where the recipe skips spikes


def new_state(config: ModelConfig, recipe: Recipe) -> TrainState:
    """A fresh model on the CPU in float32, drawn from the recipe's seed, and an optimiser that has seen nothing."""
    model = build_model(config, device="cpu")
    init_weights(model, seed=recipe.seed)
    return TrainState(model, build_optimizer(model, recipe), torch.Generator().manual_seed(recipe.seed))


def build_optimizer(model: LanguageModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with decay decoupled from the gradient, `p *= 1 - lr · weight_decay`, on all but the recipe's `no_decay`.

    As in OLMo 2 norms decay and embeddings do not, by default: a row whose token never came keeps its first value, bit for
    bit. What the recipe freezes needs no gradient and is in no group.

    Raises: TrainingError if nothing is left to train.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if not matches(name, recipe.frozen)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    if not trained:
        raise TrainingError(f"training wants a parameter that is not frozen; {', '.join(recipe.frozen)} freezes all")
    bare = [parameter for name, parameter in trained.items() if matches(name, recipe.no_decay)]
    decayed = [parameter for name, parameter in trained.items() if not matches(name, recipe.no_decay)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": bare, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.peak_lr,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=True,
    )


def move_state(state: TrainState, device: torch.device | str) -> TrainState:
    """The state on another device, in place."""
    state.model.to(device)
    for moments in state.optimizer.state.values():
        moments.update({name: tensor.to(device) for name, tensor in moments.items()})
    return state


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs names the parameter."""
    return any(fnmatchcase(name, glob) for glob in globs)
