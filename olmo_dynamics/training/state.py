"""The state of a run, all that resuming needs in one object: model, optimiser, counters, data position, random state.

>>> config = ModelConfig(hidden_size=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate_size=16, vocab_size=32,
...                      max_positions=16, norm_eps=1e-6, rope_theta=5e5)
>>> state = new_state(config, Recipe(steps=10))
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
from olmo_dynamics.training.spike_skipping import LossHistory

__all__ = ["EMBEDDING", "TrainState", "build_optimizer", "move_state", "new_state"]


@dataclass
class TrainState:
    """The state that training changes: `step` updates were applied, over `tokens_seen` tokens.

    `position` counts the batches read from the data; it differs from `step` if a run was forked onto other data. Any random
    numbers of training come from `generator` (the loop draws none), so a resumed run continues them.
    """

    model: LanguageModel
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    step: int = 0
    tokens_seen: int = 0
    position: int = 0
    loss: float = math.nan  # cross-entropy of the last update, nats per token
    history: LossHistory = field(default_factory=LossHistory)  # kept if the recipe skips spikes


def new_state(config: ModelConfig, recipe: Recipe) -> TrainState:
    """A new model on the CPU in float32, drawn from the recipe's seed, and a new optimiser."""
    model = build_model(config, device="cpu")
    init_weights(model, seed=recipe.seed)
    return TrainState(model, build_optimizer(model, recipe), torch.Generator().manual_seed(recipe.seed))


def build_optimizer(model: LanguageModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with decay decoupled from the gradient, `p *= 1 - lr · weight_decay`, on all but the recipe's `no_decay`.

    As in OLMo 2, norms decay and embeddings do not, by default: a row whose token never occurred keeps its first value, bit
    for bit. Frozen parameters need no gradient and are in no group.

    Raises:
        TrainingError: every parameter is frozen.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if not matches(name, recipe.frozen)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    if not trained:
        raise TrainingError(f"at least one parameter must not be frozen; {', '.join(recipe.frozen)} freezes all")
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
    """Move the state to another device, in place."""
    state.model.to(device)
    for moments in state.optimizer.state.values():
        moments.update({name: tensor.to(device) for name, tensor in moments.items()})
    return state


def matches(name: str, globs: Iterable[str]) -> bool:
    """True if one of the globs matches the parameter's name."""
    return any(fnmatchcase(name, glob) for glob in globs)
