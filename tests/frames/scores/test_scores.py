"""Scores joined to revisions: Pythia's published table as counted, each form of file, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.scores.score_files import read_scores
from olmo_dynamics.frames.scores.score_matching import join_scores, match_scores
from olmo_dynamics.frames.scores.score_tables import plain

REVISIONS = pl.DataFrame(
    [("org/a", "step0", "0" * 40, 0), ("org/a", "step10", "1" * 40, 10), ("org/a", "step10-again", "2" * 40, 10),
     ("org/b", "step0", "", 0)],
    schema=["source", "revision", "commit", "step"], orient="row",
)  # fmt: skip


def scores(*rows: dict[str, object]) -> pl.DataFrame:
    return plain(pl.DataFrame([{"task": "piqa", "metric": "acc", "value": 0.5, **row} for row in rows]))


def test_the_published_scores_of_pythia_join_as_counted(shared: Path) -> None:
    table = read_scores(shared / "data" / "pythia" / "evals_v1.csv.gz")
    base = table.filter(~pl.col("model").str.ends_with("MtokBS"))
    steps = base.select(pl.col("model").str.replace("-bf16", ""), "step").unique()
    targets = steps.select(
        source=pl.format("EleutherAI/{}", "model"), revision=pl.format("step{}", "step"), commit=pl.lit(""), step="step"
    )
    found = match_scores(table, targets)
    assert (table.height, found.scores.height) == (130_410, 110_158)
    assert dict(found.left_out["reason"].value_counts().iter_rows()) == {
        "another model: an intervention": 10_780,
        "another run": 9_472,
    }
    of_bf16 = found.scores.filter(model="pythia-1b-bf16")
    assert of_bf16["source"].unique().to_list() == ["EleutherAI/pythia-1b"] and of_bf16.height == 6_564
    assert found.conflicts.is_empty()  # the only keys with several values are those of interventions


def test_a_name_comes_before_a_commit_and_a_commit_before_a_step() -> None:
    given = scores(
        {"model": "org/a", "revision": "step0", "commit": "1" * 40, "step": 10},
        {"model": "a", "revision": None, "commit": "2" * 40, "step": 0},
        {"model": "a", "revision": "1" * 40, "commit": None, "step": None},
        {"model": "b", "revision": None, "commit": None, "step": 0},
    )
    found = match_scores(given, REVISIONS)
    assert found.scores["revision"].to_list() == ["step0", "step10-again", "step10", "step0"]
    assert found.scores["step"].to_list() == [0, 10, 10, 0] and found.left_out.is_empty()


def test_the_rest_is_left_out_with_its_reason() -> None:
    given = scores(
        {"model": "a", "revision": "step00", "commit": None, "step": 0},
        {"model": "a", "revision": None, "commit": "3" * 40, "step": 0},
        {"model": "a", "revision": None, "commit": None, "step": 10},
        {"model": "a", "revision": None, "commit": None, "step": 11},
        {"model": "a", "revision": None, "commit": None, "step": None},
        {"model": "c", "revision": "step0", "commit": None, "step": None},
        {"model": None, "revision": "step0", "commit": None, "step": None},
    )
    found = match_scores(given, REVISIONS)
    assert found.scores.is_empty()
    assert found.left_out["reason"].to_list() == [
        "no revision has this name", "no revision has this commit", "several revisions have this step",
        "no revision has this step", "no revision, commit or step is named", "another run", "another run",
    ]  # fmt: skip


def test_scores_of_one_key_with_several_values_are_named_not_averaged() -> None:
    given = scores(*({"model": "b", "step": 0, "task": task, "value": value} for task, value in
                     (("piqa", 0.5), ("piqa", 0.75), ("wsc", 0.5), ("wsc", 0.5))))  # fmt: skip
    found = match_scores(given, REVISIONS)
    assert found.scores["conflict"].to_list() == [True, True, False, False]
    assert found.conflicts.select("task", "values").rows() == [("piqa", [0.5, 0.75])]


def test_a_stores_scores(filled) -> None:
    table = pl.DataFrame({"step": [0, 10, 7], "task": "piqa", "metric": "acc", "value": [0.5, 0.6, 0.7]})
    found = join_scores(filled, table)
    assert found.scores.select("revision", "value").rows() == [
        ("stage1-step0-tokens0B", 0.5),
        ("stage1-step10-tokens1B", 0.6),
    ]
    assert found.left_out.select("step", "reason").rows() == [(7, "no revision has this step")]
    with pytest.raises(OptionError) as caught:
        join_scores([], table)
    assert str(caught.value) == "join_scores() needs at least one store (got none)"


HARNESS = {
    "0.4": {"results": {"piqa": {"alias": "piqa", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,get": 0.25}},
            "n-shot": {"piqa": 5}, "config": {"model_args": "pretrained=org/a,revision=step10,dtype=float16"}},
    "0.3": {"results": {"piqa": {"acc": 0.5, "acc_stderr": 0.1}},
            "config": {"model_args": "pretrained=org/a,revision=step10", "num_fewshot": 5}},
}  # fmt: skip


@pytest.mark.parametrize("version", HARNESS)
def test_results_of_the_harness(version: str, tmp_path: Path) -> None:
    """The files are written by hand here, in the harness's form."""
    (tmp_path / "results_1.json").write_text(json.dumps(HARNESS[version]))
    found = read_scores(tmp_path)
    first = ("org/a", "step10", None, None, "piqa", "5-shot", "acc", 0.5, 0.1)
    assert found.rows()[0] == first
    assert found.rows()[1:] == ([(*first[:6], "acc_norm,get", 0.25, None)] if version == "0.4" else [])


def test_metrics_of_olmes(tmp_path: Path) -> None:
    line = {"task_name": "arc_easy", "task_config": {"num_shots": 5}, "metrics": {"acc_raw": 0.5},
            "model_config": {"model": "org/a", "revision": "step10"}}  # fmt: skip
    (tmp_path / "metrics-all.jsonl").write_text(f"{json.dumps(line)}\n")
    [row] = read_scores(tmp_path / "metrics-all.jsonl").rows()
    assert row == ("org/a", "step10", None, None, "arc_easy", "5-shot", "acc_raw", 0.5, None)


def test_exports_of_weights_and_biases(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("_step,_runtime,eval/acc\n0,1.5,0.25\n10,2.5,\n")
    assert read_scores(tmp_path / "history.csv").select("model", "step", "metric", "value").rows() == [
        (None, 0, "eval/acc", 0.25)
    ]
    text = '"Step","run-1 - eval/acc","run-1 - eval/acc__MIN","run-1 - eval/acc__MAX"\n"10","0.5","0.4","0.6"\n'
    (tmp_path / "chart.csv").write_text(text)
    assert read_scores(tmp_path / "chart.csv").select("model", "step", "metric", "value").rows() == [
        ("run-1", 10, "eval/acc", 0.5)
    ]


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(OptionError) as caught:
        read_scores(path)
    assert str(caught.value) == (
        f"{path} must have the columns task, metric, value, or _step or Step as Weights & Biases exports them (got a, b)"
    )
