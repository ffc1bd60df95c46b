"""Sentences about a run: start, end and extremes, against numbers written down here."""

from __future__ import annotations

import polars as pl
import pytest

from olmo_dynamics.reporting.sentences import Told, of_pairs, of_path, of_places, sentence


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
OUTSIDE = frame(step=[7, 7, 7], layer=[None, 0, 1], rms=[0.5, 1.0, 3.0])


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
        (OUTSIDE, "The size runs from 0.5 to 3 (layer 1)."),
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


def test_maps_of_pairs_tell_the_ends_and_the_lowest_neighbours() -> None:
    pairs = pl.DataFrame({"revision": ["a", "a", "b"], "other_revision": ["b", "c", "c"], "step": [0, 0, 10],
                          "other_step": [10, 20, 20], "cosine": [0.9, 0.25, 0.5]})  # fmt: skip
    told = "The cosine between step 0 and step 20 is 0.25; of neighbours, the lowest is 0.5 (step 10 and step 20)."
    assert of_pairs(pairs, "cosine", "the cosine") == told
    assert (
        of_pairs(pairs.head(1).with_columns(step=None), "cosine", "the cosine") == "The cosine between a and b is 0.9."
    )
    layers = pairs.select(layer=pl.Series([0, 0, 1]), other_layer=pl.Series([1, 2, 2]), cka=pl.col("cosine"))
    told = "CKA between layer 0 and layer 2 is 0.25; of neighbours, the lowest is 0.5 (layer 1 and layer 2)."
    assert of_pairs(layers, "cka", "CKA", between="layer") == told
    assert of_pairs(pairs.clear(), "cosine", "the cosine") == ""


def test_a_path_tells_its_components_and_the_largest_activations_their_feature() -> None:
    path = pl.DataFrame({"revision": ["a", "b"] * 2, "step": [0, 10] * 2, "component": [1, 1, 2, 2],
                         "share": [0.8, 0.8, 0.15, 0.15], "coordinate": [-3.0, 4.0, 1.0, -1.0]})  # fmt: skip
    assert of_path(path) == (
        "The first components hold 80 % and 15 % of the variance over revisions; along the first, the weights go from -3 at "
        "step 0 to 4 at step 10."
    )
    assert of_path(path.clear()) == ""
    places = pl.DataFrame({"layer": [0, 0, 1, None], "feature": [7, 7, 3, 3], "position": [0, 4, 0, 0]})
    assert of_places(places) == (
        "Feature 7 is most often among the largest activations of a layer: 66.7 % of them; 66.7 % of all are at the first "
        "position of a window."
    )
    assert of_places(places.clear()) == ""
