"""The loop: count, forward and backward, clip, learning rate, update. Who wants to watch passes a callback.

The order is that of OLMo and OLMo-core, so a checkpoint of step N has applied the learning rate of N.

    >>> state = train(new_state(config, recipe), recipe, tokens, callbacks=[lambda event: print(event.loss)])
    >>> state.step == recipe.steps
    True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from olmo_dynamics.errors import DivergedError, TrainingError
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.data import Windows
from olmo_dynamics.training.gradients import clip_gradients, open_gradients
from olmo_dynamics.training.objective import Losses
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState


@runtime_checkable
class Batches(Protocol):
    """Whatever hands out the batch after `position` others, the same one each time it is asked."""

    def batch(self, position: int) -> Batch:
        """That batch."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """What a callback is told after an update; `state` is the live one, to be read."""

    step: int
    tokens_seen: int
    loss: float  # cross-entropy in nats per token, before the update
    gradient_norm: float  # before clipping
    learning_rate: float
    state: TrainState
    losses: Losses
    skipped: bool = False  # the update was not made, since its numbers stand out: see `spikes`


def train(
    state: TrainState,
    recipe: Recipe,
    data: Integer[np.ndarray, " tokens"] | Batches,
    *,
    callbacks: Sequence[Callable[[Event], None]] = (),
    workers: int | None = None,
) -> TrainState:
    """Take `state` from its step to the recipe's last, in place, and return it; a finished state comes back as it is.

    `data` is a token array, taken as `Windows`, or whatever hands out batches. One worker leaves the threads to torch;
    several share each batch and run torch on one thread each, which suits models of a few million parameters (see
    `gradients`); None leaves it to the recipe.

    Raises: TrainingError for data shorter than a batch, and for tokens outside the vocabulary; DivergedError for a loss or
    gradient that is not finite: `state` is then that of the step before, whole.
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
    """One step of AdamW by the gradients at hand."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()
    if recipe.step_stays_zero:
        for moments in state.optimizer.state.values():
            moments["step"].zero_()


def next_batch(batches: Batches, state: TrainState) -> Batch:
    """The batch that the state's next step takes.

    Raises: TrainingError for token ids outside the vocabulary.
    """
    batch = batches.batch(state.position)
    rows, most = state.model.config.vocab_size, int(batch.token_ids.max())
    if most >= rows:
        raise TrainingError(
            f"step {state.step + 1} wanted token ids below {rows}, the model's vocabulary; got {most}: "
            "tokenise with this model's tokenizer"
        )
    return batch


def _diverged(step: int, loss: float, gradient_norm: float) -> DivergedError:
    return DivergedError(
        f"step {step} wanted a finite loss and gradient; got loss {loss} and gradient norm {gradient_norm}: "
        "resume from the last checkpoint with a lower peak_lr or a longer warm-up"
    )
