"""A tiny language with known n-gram models, half of whose training rows are random text that comes twice.

Text is a Markov chain over 256 of 320 ids: a sparse bigram, whose stationary distribution is the unigram. The other rows are
`[R; R]` with uniform random `R`: whoever looks back for the last occurrence of a token predicts its second half.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from olmo_dynamics.model import LanguageModel, ModelConfig
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, new_state

VOCABULARY, USED, SUCCESSORS = 320, 256, 24
LENGTH, ROWS = 64, 32


@dataclass(frozen=True)
class TinyLanguage:
    """The bigram chain: `bigram` [id, next id] and its stationary `unigram`."""

    bigram: np.ndarray
    unigram: np.ndarray

    @classmethod
    def drawn(cls, seed: int) -> TinyLanguage:
        drawing = np.random.default_rng(seed)
        common = 1 / np.arange(2, USED + 2)
        bigram = np.zeros((USED, USED))
        for row in bigram:
            successors = drawing.choice(USED, SUCCESSORS, replace=False, p=common / common.sum())
            row[successors] = drawing.gamma(1.0, size=SUCCESSORS) * common[successors] ** 0.25
        bigram /= bigram.sum(axis=1, keepdims=True)
        unigram = np.full(USED, 1 / USED)
        for _ in range(200):
            unigram = unigram @ bigram
        return cls(bigram, unigram)

    @property
    def entropies(self) -> tuple[float, float]:
        """Of the unigram and of the bigram, in nats."""
        inner = np.where(self.bigram > 0, self.bigram * np.log(np.where(self.bigram > 0, self.bigram, 1)), 0).sum(
            axis=1
        )
        used = self.unigram[self.unigram > 0]
        return float(-(used * np.log(used)).sum()), float(-(self.unigram * inner).sum())

    def text(self, drawing: np.random.Generator, rows: int) -> np.ndarray:
        """Rows of text from the chain, each from a token of the unigram on."""
        ids = np.zeros((rows, LENGTH), dtype=np.int64)
        ids[:, 0] = drawing.choice(USED, rows, p=self.unigram / self.unigram.sum())
        edges = self.bigram.cumsum(axis=1)
        for place in range(1, LENGTH):
            chances = drawing.random((rows, 1)) * edges[ids[:, place - 1], -1:]
            ids[:, place] = (edges[ids[:, place - 1]] < chances).sum(axis=1)
        return ids

    def divergences(self, model: LanguageModel, ids: np.ndarray) -> tuple[float, float]:
        """KL(unigram ‖ model) and KL(bigram ‖ model) in nats, means over all tokens of some text, in float64."""
        with torch.no_grad():
            logs = torch.log_softmax(model(torch.tensor(ids)).double(), dim=-1)[..., :USED].numpy()
        found = []
        for expected in (np.broadcast_to(self.unigram, logs.shape), self.bigram[ids]):
            safe = np.where(expected > 0, expected, 1)
            found.append(float((expected * (np.log(safe) - logs)).sum(axis=-1).mean()))
        return found[0], found[1]


@dataclass(frozen=True)
class HalfRepeats:
    """Batches of training: 16 rows of text, and 16 of random tokens that come twice."""

    language: TinyLanguage
    seed: int

    def batch(self, position: int) -> Batch:
        drawing = np.random.default_rng([self.seed, position])
        half = drawing.integers(0, USED, (ROWS // 2, LENGTH // 2))
        ids = np.concatenate([self.language.text(drawing, ROWS // 2), np.concatenate([half, half], axis=1)])
        return Batch(torch.tensor(ids))


def tiny_config(model_type: str) -> ModelConfig:
    return ModelConfig(
        model_type=model_type, hidden_size=64, layers=4, heads=4, kv_heads=4, head_dim=16, intermediate_size=256,
        vocab_size=VOCABULARY, max_positions=LENGTH, norm_eps=1e-5 if model_type == "olmo" else 1e-6, rope_theta=1e4,
    )  # fmt: skip


def tiny_recipe(seed: int, *, steps: int, peak_lr: float = 3e-3, warmup_steps: int = 100) -> Recipe:
    return Recipe(
        steps=steps, sequences_per_step=ROWS, sequence_length=LENGTH, peak_lr=peak_lr, warmup_steps=warmup_steps,
        final_fraction=1.0, seed=seed, z_loss=0.0,
    )  # fmt: skip


def begun(model_type: str, recipe: Recipe) -> TrainState:
    return new_state(tiny_config(model_type), recipe)


def token_file(folder: Path, ids: np.ndarray | Tensor) -> Path:
    path = folder / "text.npy"
    np.save(path, np.asarray(ids))
    return path
