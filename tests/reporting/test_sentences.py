"""Sentences about a run: start, end and extremes, against numbers written down here."""

from __future__ import annotations

import polars as pl
import pytest

from olmo_dynamics.reporting.sentences import Told, sentence


def frame(**columns: object) -> pl.DataFrame:
    steps = columns["step"]
    assert isinstance(steps, list)
    return pl.DataFrame({"revision": [f"step{step}" for step in steps], **columns})


ONE = frame(step=[0, 10, 20], rms=[1.0, 5.0, 3.0])
LAYERS = frame(step=[0, 0, 10, 10], layer=[0, 1, 0, 1], role=["q_proj"] * 4, rms=[1.0, 3.0, 2.0, 10.0])
DOMAINS = frame(
    step=[0, 0, 0, 10, 10, 10], domain=["code", "prose", "macro average"] * 2, rms=[6.0, 4.0, 5.0, 3.0, 1.0, 2.0]
)
ALONE = frame(step=[7, 7], layer=[0, 1], rms=[1.0, 3.0])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (ONE, "The size rises from 1 at step 0 to 3 at step 20; the highest is 5 (step 10)."),
        (ONE.with_columns(rms=pl.Series([2.0, 2.0, 2.01])), "The size hardly changes, from 2 at step 0 to 2.01 at step 20."),
        (LAYERS, "The size (median over 2 layers) rises from 2 at step 0 to 6 at step 10; the lowest is 1 (layer 0, step 0) and "
         "the highest is 10 (layer 1, step 10)."),
        (DOMAINS, "The size (mean over domains) falls from 5 at step 0 to 2 at step 10; the lowest is 1 (prose, step 10) and the "
         "highest is 6 (code, step 0)."),
        (ALONE, "The size runs from 1 (layer 0) to 3 (layer 1)."),
        (ALONE.head(1), "The size is 1."),
        (ONE.with_columns(rms=pl.lit(float("nan"))), ""),
    ],
)  # fmt: skip
def test_a_sentence_tells_start_end_and_extremes(table: pl.DataFrame, words: str) -> None:
    assert sentence(table, Told("rms", "the size")) == words


def test_stages_are_counted_through_and_a_series_that_began_later_does_not_move_the_median() -> None:
    staged = frame(
        step=[0, 10, 5], stage=[1, 1, 2], line=["stage1", "stage1", "stage2"], position_step=[0, 10, 15],
        tokens=[0, 40, 20], position_tokens=[0, 40, 60], rms=[1.0, 2.0, 4.0],
    )  # fmt: skip
    assert sentence(staged, Told("rms", "the size")) == "The size rises from 1 at step 0 to 4 at step 15."
    late = frame(step=[0, 10, 10], layer=[0, 0, 1], rms=[1.0, 1.5, 100.0])
    assert "rises from 1 at step 0 to 1.5 at step 10" in sentence(late, Told("rms", "the size"))


def test_other_rows_can_be_told_than_those_drawn() -> None:
    assert sentence(LAYERS, Told("rms", "the size", ONE)).startswith("The size rises from 1 at step 0 to 3")
