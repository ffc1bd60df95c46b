"""The trace of one batch in tiny models: three seeds, eight steps fixed beforehand, each batch beside a held-out twin.

Statistic: (batch - twin at N + 1) - (batch - twin at N - 1) in nats per token, the mean over pairs of sequences; one-sided
permutation test over all pairs of a seed. `pytest -s` prints every seed, whatever it shows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from olmo_dynamics.experiments.tiny_language import HalfRepeats, TinyLanguage, begun, tiny_recipe
from olmo_dynamics.frames import memorisation_test
from olmo_dynamics.model import LanguageModel
from olmo_dynamics.training.trainer import Event, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SEEDS = (0, 1, 2)
STEPS = (10, 20, 30, 40, 50, 60, 70, 80)
AFTER, LATER = 1, 20
LANGUAGE = TinyLanguage.drawn(0)
HELD_OUT = 1_000_000  # positions that no training reaches


def sequence_losses(model: LanguageModel, ids: torch.Tensor) -> np.ndarray:
    """The mean loss of each sequence, its first token not scored."""
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).double(), dim=-1)[:, :-1]
    return -logs.gather(-1, ids[:, 1:, None]).squeeze(-1).mean(dim=1).numpy()


@dataclass(frozen=True)
class Traced:
    """Losses [step, before / at / after / later, sequence] of batches and twins, with the test of each step and of all."""

    batch: np.ndarray
    twin: np.ndarray

    def gain(self, place: int) -> float:
        """The mean change of the gap from before the batch to a later place."""
        gap = self.batch - self.twin
        return float((gap[:, place] - gap[:, 0]).mean())

    @property
    def p_value(self) -> float:
        batch, twin = (np.stack([each[:, 0].ravel(), each[:, 2].ravel()]) for each in (self.batch, self.twin))
        return memorisation_test(batch, twin).p_value


def traced(seed: int) -> Traced:
    """Train one model, keep it at N - 1, N, N + 1 and N + 20, and look at each batch and its twin."""
    recipe = tiny_recipe(seed, steps=max(STEPS) + LATER, warmup_steps=20)
    data, kept = HalfRepeats(LANGUAGE, seed), {}
    wanted = {step + offset for step in STEPS for offset in (-1, 0, AFTER, LATER)}

    def keep(event: Event) -> None:
        if event.step in wanted:
            kept[event.step] = copy.deepcopy(event.state.model)

    first = begun("olmo2", recipe)
    order = SeenBatches(data)
    train(first, recipe, order, callbacks=[keep])
    found = np.empty((2, len(STEPS), 4, 32))
    for row, step in enumerate(STEPS):
        ids = (order.seen[step - 1], data.batch(HELD_OUT + step).token_ids)
        for place, offset in enumerate((-1, 0, AFTER, LATER)):
            found[:, row, place] = [sequence_losses(kept[step + offset], each) for each in ids]
    return Traced(*found)


class SeenBatches:
    """The batches as they are handed out, in order."""

    def __init__(self, data: HalfRepeats) -> None:
        self.data, self.seen = data, []

    def batch(self, position: int) -> object:
        given = self.data.batch(position)
        self.seen.append(given.token_ids)
        return given


def test_a_batch_leaves_a_trace_that_fades() -> None:
    every = [traced(seed) for seed in SEEDS]
    print("\nseed  gain at N  gain at N + 1  gain at N + 20  p at N + 1")
    for seed, each in zip(SEEDS, every, strict=True):
        print(f"{seed:>4}  {each.gain(1):9.4f}  {each.gain(2):13.4f}  {each.gain(3):14.4f}  {each.p_value:10.4f}")
    for each in every:
        assert each.p_value < 0.01
        assert each.gain(2) < each.gain(3) < 0  # -0.018 to -0.026, then -0.006 to -0.012
