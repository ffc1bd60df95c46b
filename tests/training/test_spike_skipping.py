"""Skipping is OLMo-core's: when it begins, what it is held against, and that a skipped update changes nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.checkpoint import write_checkpoint
from olmo_dynamics.training.checkpoint_reader import read_checkpoint
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.data.windows import Windows
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.spike_skipping import LossHistory
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import Event, train


def by_the_book(losses: list[float], norms: list[float]) -> list[bool]:
    """OLMo-core's get_step_factor, after each update: the list it holds has the new number at its end."""
    skipped = []
    for now in range(1, len(losses) + 1):
        held = [np.asarray(each[max(0, now - 129) : now]) for each in (losses, norms)]
        above = [each[-1] - each[:-1].mean() > 6 * each[:-1].std(ddof=1) for each in held if len(each) >= 64]
        skipped.append(any(above))
    return skipped


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_skips_are_those_of_the_trainer(seed: int) -> None:
    random = np.random.default_rng(seed)
    losses = random.normal(3.0, 0.1, 300) + (random.random(300) < 0.05) * random.normal(0.6, 0.3, 300)
    norms = np.exp(random.normal(0.0, 0.1, 300)) * np.where(random.random(300) < 0.03, 2.0, 1.0)
    losses[[10, 200]] += 5.0  # too early, and surely
    history = LossHistory()
    found = [history.spikes(*each) for each in zip(losses.tolist(), norms.tolist(), strict=True)]
    assert found == by_the_book(losses.tolist(), norms.tolist()) and any(found) and not any(found[:63])


class OneStrangeBatch:
    """Windows of learnable tokens, but for the batch of step 66, which is noise."""

    def __init__(self, tokens: np.ndarray, recipe: Recipe) -> None:
        self.windows = Windows(tokens, recipe.sequence_length, recipe.sequences_per_step, recipe.seed)

    def batch(self, position: int) -> Batch:
        if position != 65:
            return self.windows.batch(position)
        return Batch(torch.randint(300, (4, 16), generator=torch.Generator().manual_seed(0)))


def test_a_skipped_update_changes_nothing_and_a_resumed_run_skips_it_too(
    config: ModelConfig, recipe: Recipe, tmp_path: Path
) -> None:
    recipe = replace(recipe, steps=68, skip_spikes=True, warmup_steps=10, peak_lr=3e-3)
    tokens = np.arange(2000) % 16
    batches = OneStrangeBatch(tokens, recipe)
    state = new_state(config, recipe)
    skipped: list[int] = []
    seen: dict[int, list[torch.Tensor]] = {}

    def watch(event: Event) -> None:
        held = [each for moments in state.optimizer.state.values() for each in moments.values()]
        seen[event.step] = [each.detach().clone() for each in [*state.model.parameters(), *held]]
        skipped.extend([event.step] * event.skipped)
        if event.step == 64:
            write_checkpoint(tmp_path, state, recipe=recipe, tokenizer_json=None, lineage={})

    train(state, recipe, batches, callbacks=[watch])
    assert skipped == [66]
    assert all(torch.equal(one, other) for one, other in zip(seen[65], seen[66], strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(seen[66], seen[67], strict=True))
    resumed, _ = read_checkpoint(tmp_path / "step64-tokens4096")
    again: list[bool] = []
    train(resumed, recipe, batches, callbacks=[lambda event: again.append(event.skipped)])
    assert again == [False, True, False, False] and resumed.history == state.history
    for one, other in zip(resumed.model.parameters(), state.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_it_nothing_is_skipped(config: ModelConfig, recipe: Recipe) -> None:
    recipe = replace(recipe, steps=68, warmup_steps=10, peak_lr=3e-3)
    events: list[Event] = []
    state = new_state(config, recipe)
    train(state, recipe, OneStrangeBatch(np.arange(2000) % 16, recipe), callbacks=[events.append])
    assert not any(event.skipped for event in events) and state.history == LossHistory()
    assert events[65].loss > events[64].loss + 1  # it would have been


@pytest.mark.parametrize("name", ["losses", "gradient_norms"])
def test_the_history_is_128_long(name: str) -> None:
    history = LossHistory()
    for number in range(200):
        history.spikes(float(number % 7), float(number % 5))
    assert len(getattr(history, name)) == 128
