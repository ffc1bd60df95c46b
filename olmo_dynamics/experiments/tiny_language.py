"""A tiny language with known n-gram models, half of whose training rows are random text that comes twice.

Text is a Markov chain over 256 of 320 ids: a sparse bigram, whose stationary distribution is the unigram. The other rows are
`[R; R]` with uniform random `R`: whoever looks back for the last occurrence of a token predicts its second half. A model of 0.3
million parameters learns the unigram, then the bigram, then induction, in a hundred updates: a minute on two cores.

    >>> from olmo_dynamics.experiments.demo import pretrain
    >>> run = pretrain("class/seed0", size=LessonSize())  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from olmo_dynamics.experiments.corpus import Corpus
from olmo_dynamics.experiments.demo import WORKERS, DemoSize
from olmo_dynamics.model import LanguageModel, ModelConfig
from olmo_dynamics.model.family import PLAIN, family_of
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
        """A language whose common tokens follow each other more often."""
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
        """The entropies of the unigram and of the bigram, in nats."""
        safe = np.where(self.bigram > 0, self.bigram, 1)
        inner = (self.bigram * np.log(safe)).sum(axis=1)
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

    def rows(self, drawing: np.random.Generator, count: int) -> np.ndarray:
        """Rows of training: one half text, one half random tokens that come twice."""
        half = drawing.integers(0, USED, (count // 2, LENGTH // 2))
        return np.concatenate([self.text(drawing, count // 2), np.concatenate([half, half], axis=1)])

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
        """The batch at a position, the same whenever it is asked for."""
        return Batch(torch.tensor(self.language.rows(np.random.default_rng([self.seed, position]), ROWS)))


@dataclass(frozen=True, kw_only=True)
class LessonSize(DemoSize):
    """The size of a lesson's run: this language, a model that learns to copy, revisions evenly spaced over its updates.

    `pretrain(out, size=LessonSize(seed=1))` trains it; its data are in `out/corpus/train.npy`, which `od.fork` continues with.
    """

    steps: int = 300
    revisions: int = 31
    peak_lr: float = 3e-3
    warmup_steps: int = 100
    seed: int = 0
    model_type: str = PLAIN

    @property
    def config(self) -> ModelConfig:
        """The model."""
        return tiny_config(self.model_type)

    @property
    def recipe(self) -> Recipe:
        """The training recipe: a warm-up, then a constant rate."""
        save_at = np.linspace(0, self.steps, self.revisions).round().astype(int).tolist()
        return Recipe(
            steps=self.steps, sequences_per_step=ROWS, sequence_length=LENGTH, peak_lr=self.peak_lr,
            warmup_steps=self.warmup_steps,
            final_fraction=1.0, seed=self.seed, z_loss=0.0, save_at=tuple(save_at), workers=WORKERS,
        )  # fmt: skip

    def make_corpus(self) -> Corpus:
        """The rows of twice as many updates, and a held-out text of the chain alone; words of the language are `w0`, `w1`, …"""
        language, drawing = TinyLanguage.drawn(0), np.random.default_rng([self.seed, 1])
        rows = [language.rows(drawing, ROWS) for _ in range(2 * self.steps)]
        words = WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0")
        tokenizer = Tokenizer(words)
        tokenizer.pre_tokenizer = WhitespaceSplit()
        train, held_out = np.concatenate(rows), language.text(np.random.default_rng(9), 64)
        flat = (each.astype(np.uint16).reshape(-1) for each in (train, held_out))
        return Corpus(tokenizer.to_str().encode(), *flat)


def tiny_config(model_type: str) -> ModelConfig:
    """A model of four layers, 64 wide, of the family."""
    return ModelConfig(
        model_type=model_type, hidden_size=64, layers=4, heads=4, kv_heads=4, head_dim=16, intermediate_size=256,
        vocab_size=VOCABULARY, max_positions=LENGTH, rope_theta=1e4,
        norm_eps=family_of(model_type).defaults.get("layer_norm_eps", 1e-6),
    )  # fmt: skip


def tiny_recipe(seed: int, *, steps: int, peak_lr: float = 3e-3, warmup_steps: int = 100) -> Recipe:
    """A recipe of one batch of 32 rows per update."""
    return Recipe(
        steps=steps, sequences_per_step=ROWS, sequence_length=LENGTH, peak_lr=peak_lr, warmup_steps=warmup_steps,
        final_fraction=1.0, seed=seed, z_loss=0.0,
    )  # fmt: skip


def begun(model_type: str, recipe: Recipe) -> TrainState:
    """A new model before its first update."""
    return new_state(tiny_config(model_type), recipe)
