"""Plots of scores, and the report's sections of the group `evaluation`."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.names import Revision
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sections import sections
from tests.store.synthetic import add, new_store

STEPS = [0, 10, 20, 40, 80]


def pairs(**more: object) -> pl.DataFrame:
    return pl.DataFrame({
        "revision": [f"step{step}" for step in STEPS], "step": STEPS, "tokens": [100 * step for step in STEPS],
        "domain": "code", "cross_entropy": [9.0, 8.0, 7.0, 6.0, 5.0], "task": "piqa", "metric": "acc",
        "score": [0.5, 0.6, 0.55, 0.7, 0.8], "score_se": [0.1, None, 0.1, 0.1, 0.1], **more,
    })  # fmt: skip


def test_a_relation_joins_revisions_in_training_order_and_tells_the_rank_correlation() -> None:
    drawn = plots.score_relation(pairs().reverse(), "cross_entropy").to_dict()
    assert drawn["title"]["text"] == ["Cross-entropy and piqa during training"]
    told = drawn["title"]["subtitle"]
    assert told[0].startswith("ρ = -0.90 [") and told[0].endswith("], 5 revisions (Spearman, 95 % block bootstrap).")
    assert told[1] == "5 revisions, step 0 to 80."
    rows = next(iter(drawn["datasets"].values()))
    assert [row["place_in_training"] for row in rows] == list(range(5)) and [row["step"] for row in rows] == STEPS
    assert [row["score_low"] and round(row["score_low"], 9) for row in rows] == [0.4, None, 0.45, 0.6, 0.7]
    assert drawn["layer"][2]["encoding"]["y"]["title"] == "piqa: acc"


def test_lines_of_training_have_a_correlation_each() -> None:
    both = pl.concat([pairs(line="stage1"), pairs(line="stage1/fork")])
    told = plots.score_relation(both, "cross_entropy").to_dict()["title"]["subtitle"]
    assert " ".join(told).count("ρ = -0.90") == 2 and "stage1/fork: ρ" in " ".join(told)


def test_a_store_with_scores_has_sections_of_them(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss", "evaluation"))
    for seed, step in enumerate(STEPS):
        add(store, Revision(f"step{step}", step=step, tokens=step * 100), seed)
    found = {section.title: section for section in sections(Drawn(store))}
    assert list(found)[-3:] == [
        "Scores of tasks",
        "Loss and bits per byte of arithmetic",
        "Loss and bits per byte of agreement",
    ]
    whole = [section.chart.to_dict() for section in list(found.values())[-3:]]
    assert [len(chart.get("concat", [])) for chart in whole] == [3, 0, 0]
    assert all("could not be drawn" not in str(chart) for chart in whole)
