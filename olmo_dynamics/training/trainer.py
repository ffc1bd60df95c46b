"""The training loop: forward and backward, clip, count, learning rate, update. A monitor is passed as a callback.

The order is that of OLMo and OLMo-core, so a checkpoint of step N has applied the learning rate of N.

    >>> from olmo_dynamics.model import ModelConfig
    >>> from olmo_dynamics.training.state import new_state
    >>> config = ModelConfig(hidden_size=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate_size=16, vocab_size=32,
    ...                      max_positions=16, norm_eps=1e-6, rope_theta=5e5)
    >>> recipe = Recipe(steps=2, sequences_per_step=4, sequence_length=16)
    >>> state = new_state(config, recipe)
    >>> train(state, recipe, np.arange(1000) % 32, callbacks=[lambda event: print(event.step)]).tokens_seen
    1
    2
    128
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from olmo_dynamics.errors import DivergedError, TrainingError
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.data.windows import Windows
from olmo_dynamics.training.gradients import clip_gradients, open_gradients
from olmo_dynamics.training.objective import LossTerms
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState


@runtime_checkable
class Batches(Protocol):
    """A source of batches: the batch after `position` others, the same one at each call."""

    def batch(self, position: int) -> Batch:
        """The batch after `position` others."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """An update, as a callback sees it; `state` is the live one: read it, never change it."""

    step: int
    tokens_seen: int
    loss: float  # cross-entropy in nats per token, before the update
    gradient_norm: float  # before clipping
    learning_rate: float
    state: TrainState
    losses: LossTerms
    skipped: bool = False  # no update was made, since it is an outlier: see `spike_skipping`


def train(
    state: TrainState,
    recipe: Recipe,
    data: Integer[np.ndarray, " tokens"] | Batches,
    *,
    callbacks: Sequence[Callable[[Event], None]] = (),
    workers: int | None = None,
) -> TrainState:
    """Train `state` from its step to the recipe's last, in place, and return it; a finished state is returned unchanged.

    `data` is a token array, read as `Windows`, or a source of batches. One worker leaves the threads to torch;
    several share each batch and run torch on one thread each, which suits models of a few million parameters (see
    `gradients`); None leaves the number to the recipe.

    Raises:
        TrainingError: the data are shorter than a batch, or a token id is outside the vocabulary.
        DivergedError: the loss or the gradient is not finite; `state` is then the whole state of the step before.
    """
    length, sequences = recipe.sequence_length, recipe.sequences_per_step
    batches: Batches = Windows(data, length, sequences, recipe.seed) if isinstance(data, np.ndarray) else data
    parameters = list(state.model.parameters())
    with open_gradients(state.model, recipe, workers=workers) as gradients:
        while state.step < recipe.steps:
            batch = next_batch(batches, state)
            losses = gradients.of(batch)
            gradient_norm = clip_gradients(parameters, recipe.clip)
            if not (math.isfinite(losses.total) and math.isfinite(gradient_norm)):
                raise _diverged(state.step + 1, losses.total, gradient_norm)

            state.step += 1
            state.tokens_seen += batch.token_ids.numel()
            state.position += 1
            state.loss = losses.cross_entropy
            learning_rate = recipe.learning_rate(state.step, state.tokens_seen)
            skipped = recipe.skip_spikes and state.history.spikes(losses.cross_entropy, gradient_norm)
            if not skipped:
                update(state, recipe, learning_rate)

            event = Event(
                state.step,
                state.tokens_seen,
                losses.cross_entropy,
                gradient_norm,
                learning_rate,
                state,
                losses,
                skipped,
            )
            for callback in callbacks:
                callback(event)
    return state


def update(state: TrainState, recipe: Recipe, learning_rate: float) -> None:
    """Make one step of AdamW with the current gradients."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()
    if recipe.step_stays_zero:
        for moments in state.optimizer.state.values():
            moments["step"].zero_()


def next_batch(batches: Batches, state: TrainState) -> Batch:
    """The batch of the state's next step.

    Raises:
        TrainingError: a token id is outside the vocabulary.
    """
    batch = batches.batch(state.position)
    rows, most = state.model.config.vocab_size, int(batch.token_ids.max())
    if most >= rows:
        raise TrainingError(
            f"step {state.step + 1}: token ids must be below {rows}, the model's vocabulary (got {most}): "
            "tokenize with this model's tokenizer"
        )
    return batch


def _diverged(step: int, loss: float, gradient_norm: float) -> DivergedError:
    return DivergedError(
        f"step {step}: loss and gradient must be finite (got loss {loss} and gradient norm {gradient_norm}): "
        "resume from the last checkpoint with a lower peak_lr or a longer warm-up"
    )
