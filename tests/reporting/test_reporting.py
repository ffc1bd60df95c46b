"""The report of a whole store, and of stores that leave little to draw."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision
from olmo_dynamics.collecting import collect
from olmo_dynamics.errors import DiskFullError, OptionError, SelectionError, StoreError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress
from olmo_dynamics.reporting import render_report, write_report
from tests.plots.drawing import encodings
from tests.plots.test_page import data_of, rows_of
from tests.runs import write_run
from tests.store.synthetic import GROUPS, add, new_store, records


def collected(folder: Path, *names: str, **options: object) -> RecordedStore:
    run = write_run(folder / "run", names)
    return collect(run, out=folder / "store.zarr", batch="6x16", progress=Progress(), **options)


@pytest.fixture(scope="module")
def store(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    return collect(tiny_run, out=tmp_path_factory.mktemp("report") / "s.zarr", batch="6x16", progress=Progress())


def test_a_section_for_every_group(store: RecordedStore) -> None:
    text = render_report(store)
    for heading in ("Loss by domain", "Bits per byte by domain", "Weight norms, layer by layer", "Weight outliers",
                    "The distribution of weights", "Embedding rows", "The residual stream by depth",
                    "Births of outlier features", "Logits of the head"):  # fmt: skip
        assert f">{heading}</h3>" in text, heading
    assert "main (has no step)" in text
    assert re.findall(r'<h2 id="chapter-\d">([^<]*)</h2>', text) == [
        "Loss", "Weights", "Residual stream", "Embedding and head",
    ]  # fmt: skip
    assert '<section class="timeline"' in text
    assert re.search(r'<p class="lede">\d+ revisions of [^<]*, steps 0 to [^<]*</p>', text)
    assert text.count('<p class="said">') == text.count("<article"), "a sentence about this run under each heading"
    assert re.search(r'<p class="said">Cross-entropy \(mean over domains\) [^<]* at step 0 to [^<]*</p>', text)


def test_parameters_alone(tiny_run: Path, tmp_path: Path) -> None:
    only = collect(tiny_run, out=tmp_path / "s.zarr", record=("parameters",), progress=Progress())
    text = render_report(only)
    assert ">Weight norms over training</h3>" in text
    assert "Loss by domain" not in text


def test_two_revisions_with_one_step_are_drawn_once(tmp_path: Path) -> None:
    text = render_report(collected(tmp_path, "step10", "step_10", "step20", record=("parameters", "loss")))
    assert "step_10 (has another&#x27;s step)" in text


def test_a_single_revision_without_a_step_is_drawn_by_depth_and_the_rest_says_why(tmp_path: Path) -> None:
    text = render_report(collected(tmp_path, "main"))
    assert (
        text.count("This chart could not be drawn: the table must hold values of 'rms' to draw (got none: 1 revision")
        == 1
    )
    by_depth = {heading: rows for heading, rows in charts_of(text).items() if heading.endswith("by depth")}
    assert sorted(by_depth) == ["The residual stream by depth", "Weight norms by depth"]
    for rows in by_depth.values():
        assert {row["revision"] for row in rows} == {"main"}


def test_a_store_without_a_finished_revision_is_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr")
    with pytest.raises(StoreError) as caught:
        render_report(store)
    assert str(caught.value) == f"{store.path} must hold at least one finished revision; run olmo-dyn collect first"


TWO_STAGES = (
    "stage1-step0-tokens0B", "stage1-step10-tokens1B", "stage1-step20-tokens2B", "main",
    *(f"stage2-ingredient{ingredient}-step{step}-tokens1B" for ingredient in (1, 2, 3) for step in (4, 8)),
)  # fmt: skip


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    """A training in two stages of which the second has three ingredients, with every group."""
    return two_stages(tmp_path_factory.mktemp("staged"))


@pytest.fixture(scope="module")
def staged_weights(tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    """The same training with losses and norms of weights alone."""
    return two_stages(tmp_path_factory.mktemp("weights"), ("parameters", "loss"))


def two_stages(folder: Path, groups: tuple[str, ...] = GROUPS) -> RecordedStore:
    store = new_store(folder / "s.zarr", groups)
    for seed, name in enumerate(TWO_STAGES):
        told = parse_revision(name)
        position = None if told.step is None else told.step + (20 if told.stage == 2 else 0)
        add(store, replace(told, position_step=position), seed)
    return store


def charts_of(text: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each chart's first table, by the chart's heading."""
    headings = re.findall(r'<h3 id="heading-\d+">([^<]*)</h3>', text)
    return {heading: rows_of(text, index)[0] for index, heading in enumerate(headings)}


@pytest.mark.slow
def test_every_chart_of_two_stages_and_three_ingredients_is_drawn_by_position(staged: RecordedStore) -> None:
    text = render_report(staged)
    assert "This chart could not be drawn" not in text
    assert text.count('<p class="said">') == text.count("<article")
    assert "main (has no step)" in text
    _, specs = data_of(text)
    over_time = [x for spec in specs for x in encodings(spec, "x") if "step" in str(x.get("title"))]
    assert {x["title"] for x in over_time} == {"step, counted through all stages"}
    assert {x["scale"]["type"] for x in over_time} == {"linear"}
    loss = {(row["line"], row["position_step"]) for row in charts_of(text)["Loss by domain"] if not row["joint"]}
    assert loss == {("stage1", 0), ("stage1", 10), ("stage1", 20)} | {
        (f"stage2/ingredient{ingredient}", position) for ingredient in (1, 2, 3) for position in (24, 28)
    }


def test_a_report_draws_the_chosen_part_of_a_store(staged_weights: RecordedStore) -> None:
    text = render_report(staged_weights, revisions="stage2:ingredient2", tensors=("q_proj", "*down*"))
    assert "<dt>revisions drawn</dt><dd>2, chosen by stage2:ingredient2</dd>" in text
    assert "<dt>tensors drawn</dt><dd>q_proj, *down*</dd>" in text
    norms = charts_of(text)["Weight norms over training"]
    assert {(row["revision"], row["role"]) for row in norms} == {
        (f"stage2-ingredient2-step{step}-tokens1B", role) for step in (4, 8) for role in ("q_proj", "down_proj")
    }


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"tensors": ("k_norm", "*.bias")}, "--tensors must match a tensor in {path}, by its name or role (got k_norm,*.bias); "
         "it holds embed_tokens, q_proj, down_proj"),
        ({"x": "tokens"}, "--x tokens needs revisions with tokens (got none); use --x step"),
        ({"x": "epoch"}, "--x must be step or tokens (got 'epoch')"),
    ],
)  # fmt: skip
def test_a_choice_that_leaves_nothing_is_refused(staged: RecordedStore, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        render_report(staged, **choice)
    assert str(caught.value) == message.format(path=staged.path)


def test_a_choice_of_revisions_is_read_as_a_selection(staged: RecordedStore) -> None:
    with pytest.raises(SelectionError, match="'stage3' matches no revision"):
        render_report(staged, revisions="stage3")


def test_the_axis_may_show_tokens(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    for step in (0, 10, 20):
        add(store, Revision(f"step{step}", step=step, tokens=step * 100), step)
    _, [spec, *_] = data_of(render_report(store, x="tokens"))
    assert {x["field"] for x in encodings(spec, "x") if "field" in x} == {"tokens"}


def test_an_empty_group_says_so_in_its_place_and_the_others_are_drawn(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss", "parameters"))
    only = list(records(0, ("parameters",)))
    store.append(Revision("step5", step=5), only, dtype="BF16", weights_sha256="", groups=("parameters",))
    text = render_report(store)
    reason = "This chart could not be drawn: the table must hold values of 'cross_entropy' to draw (got none: no rows)"
    assert text.count(reason) == 1
    assert {row["revision"] for row in charts_of(text)["Weight norms over training"]} == {"step5"}


def test_a_full_disk_is_one_line_and_leaves_nothing(
    staged_weights: RecordedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFullError) as caught:
        write_report(staged_weights, tmp_path / "report.html")
    target = tmp_path / "report.html"
    assert str(caught.value) == f"{target} cannot be written (No space left on device); make room or give another --out"
    assert list(tmp_path.iterdir()) == []


def test_a_report_needs_a_folder_to_go_into(store: RecordedStore, tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / "missing" / "report.html"):
        with pytest.raises(OptionError, match="--out must be a file in a folder that exists"):
            write_report(store, target)
    assert list(tmp_path.iterdir()) == []


def test_names_from_elsewhere_are_escaped(
    store: RecordedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes = {**store.attributes, "source": "<script>alert(1)</script>"}
    monkeypatch.setattr(type(store), "attributes", property(lambda self: attributes))
    assert "<script>alert(1)" not in render_report(store)
