"""The run of the lessons: its data, its recipe, and that training on it is a run like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import olmo_dynamics as od
from olmo_dynamics.experiments.demo import pretrain
from olmo_dynamics.experiments.tiny_language import LENGTH, USED, LessonSize, TinyLanguage

QUICK = LessonSize(steps=4, revisions=3, warmup_steps=2)


def test_half_of_the_rows_come_twice() -> None:
    rows = QUICK.make_corpus().train.reshape(-1, LENGTH)
    assert len(rows) == 2 * QUICK.steps * 32
    repeated = (rows[:, : LENGTH // 2] == rows[:, LENGTH // 2 :]).all(axis=1)
    assert repeated.sum() == len(rows) / 2


def test_text_follows_the_bigram() -> None:
    language = TinyLanguage.drawn(0)
    text = language.text(np.random.default_rng(0), 2000)
    pairs = np.zeros((USED, USED))
    np.add.at(pairs, (text[:, :-1].ravel(), text[:, 1:].ravel()), 1)
    assert (language.bigram[pairs > 0] > 0).all()
    common = pairs.sum(axis=1) > 2000
    shares = pairs[common] / pairs[common].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, language.bigram[common], atol=0.06)
    np.testing.assert_allclose(language.unigram @ language.bigram, language.unigram, atol=1e-9)


def test_the_entropies_are_those_of_the_chain() -> None:
    language = TinyLanguage.drawn(0)
    unigram, bigram = language.entropies
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.nan_to_num(language.bigram * np.log(language.bigram))
    assert bigram == pytest.approx(-(language.unigram[:, None] * logs).sum())
    assert unigram == pytest.approx(-np.sum(language.unigram * np.log(np.maximum(language.unigram, 1e-300))))
    assert bigram < unigram < np.log(USED)


def test_a_lesson_is_a_run_that_can_be_forked(tmp_path: Path) -> None:
    run = od.Run(pretrain(tmp_path, size=QUICK))
    assert run.revisions["step"].to_list() == [0, 2, 4]
    made = od.fork(
        run, run.revisions["revision"][1], data=[tmp_path / "corpus" / "train.npy"], out=tmp_path / "fork", steps=2
    )
    losses = [od.metrics(folder).filter(step=3)["loss"][0] for folder in (run.name, made.out)]
    assert losses[0] == losses[1]
