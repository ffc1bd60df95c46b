"""Dynamics that published runs show, in models of 0.3 million parameters that train for a minute: three seeds of each.

Data and models are those of `tiny_language`. A steady run (learning rate 3e-3, 100 updates) learns the unigram, then the bigram
and induction; hot runs (3e-2, 40 updates) blow up where no norm holds them. Each bound lies beside what the seeds gave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.experiments.tiny_language import USED, VOCABULARY, HalfRepeats, TinyLanguage, begun, tiny_recipe
from olmo_dynamics.model import LanguageModel, taps
from olmo_dynamics.names import Site
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.recorders import find_recorders
from olmo_dynamics.recorders.context import PlainProbe
from olmo_dynamics.training.trainer import Event, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SEEDS = (0, 1, 2)
EVERY = 20
STEADY = {"steps": 101, "peak_lr": 3e-3, "warmup_steps": 100}
HOT = {"steps": 40, "peak_lr": 3e-2, "warmup_steps": 5}
GROUPS = ("attention", "induction")
LANGUAGE = TinyLanguage.drawn(0)
TEXT = LANGUAGE.text(np.random.default_rng(9), 16)


@dataclass(frozen=True)
class Looked:
    """A model after some updates."""

    step: int
    kl_unigram: float
    kl_bigram: float
    score: float  # prefix matching of the best head
    first_half: float
    second_half: float
    max_logit: float
    stream: tuple[float, ...]  # RMS behind each block


def largest(records: list[Record], key: str) -> float:
    return max(float(np.max(each.values)) for each in records if each.quantity.key == key)


def stream_sizes(model: LanguageModel) -> tuple[float, ...]:
    """The RMS of the stream that leaves each block."""
    sizes: list[float] = []
    leaving = [tap for tap in taps(model) if tap.site is Site.RESIDUAL_OUT]
    handles = [
        tap.register_forward_hook(lambda tap, given, x: sizes.append(float(x.square().mean().sqrt())))
        for tap in leaving
    ]
    with torch.no_grad():
        model(torch.tensor(TEXT))
    for handle in handles:
        handle.remove()
    return tuple(sizes)


def look(model: LanguageModel, step: int) -> Looked:
    """Record the model as a collection does."""
    probe = PlainProbe(TEXT, tokenizer_size=USED)
    forward = RecordedPass(model.config, probe, find_recorders(GROUPS), groups=GROUPS)
    weights = model.state_dict()
    records = [
        record
        for stage in forward.stages
        for record in forward.run(stage, {name: weights[name] for name in stage.tensors})
    ]
    return Looked(
        step,
        *LANGUAGE.divergences(model, TEXT),
        score=largest(records, "induction/prefix_matching"),
        first_half=largest(records, "induction/first_half_loss"),
        second_half=largest(records, "induction/second_half_loss"),
        max_logit=largest(records, "attention/max_logit"),
        stream=stream_sizes(model),
    )


def trained(model_type: str, seed: int, **given: float) -> list[Looked]:
    """A model before training, and after every 20 updates."""
    recipe = tiny_recipe(seed, **given)
    state = begun(model_type, recipe)
    seen = [look(state.model, 0)]

    def watch(event: Event) -> None:
        if event.step % EVERY == 0:
            seen.append(look(event.state.model, event.step))

    train(state, recipe, HalfRepeats(LANGUAGE, seed), callbacks=[watch])
    return seen


@pytest.fixture(scope="module")
def steady() -> list[list[Looked]]:
    return [trained("olmo2", seed, **STEADY) for seed in SEEDS]


@pytest.fixture(scope="module")
def hot() -> list[tuple[list[Looked], list[Looked]]]:
    """Without norms of queries, keys and outputs, and with them."""
    return [(trained("olmo", seed, **HOT), trained("olmo2", seed, **HOT)) for seed in SEEDS]


def test_an_untrained_model_guesses(steady: list[list[Looked]]) -> None:
    for seen in steady:
        assert seen[0].first_half == pytest.approx(math.log(VOCABULARY), abs=0.05)  # 5.768: within 0.02


def test_the_unigram_is_learnt_before_the_bigram(steady: list[list[Looked]]) -> None:
    """KL from the unigram dips and rises again, while that from the bigram goes on falling."""
    for seen in steady:
        unigram, bigram = [each.kl_unigram for each in seen], [each.kl_bigram for each in seen]
        lowest = int(np.argmin(unigram))
        assert 40 <= seen[lowest].step <= 80  # 60
        assert unigram[0] > 1.0 and unigram[lowest] < 0.15  # 1.3; 0.06 to 0.09
        assert unigram[-1] > 1.5 * unigram[lowest]  # 3 times and more
        assert all(np.diff(bigram) < 0)


def test_induction_comes_abruptly_and_the_loss_follows(steady: list[list[Looked]]) -> None:
    for seen in steady:
        scores = {each.step: each.score for each in seen}
        assert max(scores[0], scores[20], scores[40]) < 0.2  # 0.04 to 0.09; uniform attention gives 0.02
        formed = seen[-1]
        assert formed.score > 0.35  # 0.57 to 0.87, from 0.2 at update 80
        assert formed.first_half - formed.second_half < 0.3  # 0.1, of the 5.5 nats that copying gains in the end


def test_the_stream_grows_with_depth(steady: list[list[Looked]], hot: list[tuple[list[Looked], list[Looked]]]) -> None:
    for seen in (*steady, *(each for pair in hot for each in pair)):
        assert all(np.diff(seen[0].stream) > 0) and all(np.diff(seen[-1].stream) > 0)


def test_without_output_norms_the_stream_grows_with_time(hot: list[tuple[list[Looked], list[Looked]]]) -> None:
    for bare, normed in hot:
        assert bare[-1].stream[-1] / bare[0].stream[-1] > 1000  # 5,800 to 7,200
        assert normed[-1].stream[-1] / normed[0].stream[-1] < 10  # 2.2 to 3.9


def test_qk_norm_limits_the_logits_of_attention(hot: list[tuple[list[Looked], list[Looked]]]) -> None:
    for bare, normed in hot:
        assert bare[-1].max_logit > 40  # 60 to 120
        assert normed[-1].max_logit < 20  # 5 to 9
