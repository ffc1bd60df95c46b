"""The picture of divergences from unigrams and bigrams: its lines, and the dips that it marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from olmo_dynamics import plots, quantities
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.ngram_sections import ngrams
from olmo_dynamics.store import Axis, Layout
from tests.plots.drawing import drawn, selections, titles
from tests.store.synthetic import ATTRIBUTES

STEPS = (0, 10, 100, 1000)
KL = {1: (1.8, 0.25, 0.5, 1.7), 2: (4.0, 3.0, 2.0, 2.05)}


def table(kl: dict[int, tuple[float, ...]] = KL) -> pl.DataFrame:
    rows = [
        {"revision": f"step{step}", "step": step, "tokens": 1000 * step, "order": order, "kl": value, "js": value / 9}
        for order, values in kl.items()
        for step, value in zip(STEPS, values, strict=True)
    ]
    return pl.DataFrame(rows)


def marked(chart: plots.AnyChart) -> list[str]:
    datasets = chart.to_dict()["datasets"].values()
    return [row["dip"] for rows in datasets for row in rows if "dip" in row]


def test_each_order_has_a_line_and_the_one_that_rises_again_a_ring() -> None:
    chart = plots.ngram_crossover(table())
    marks = drawn(chart)
    assert (marks["line"], marks["symbol"]) == (2, 9)
    assert marked(chart) == ["0.25 at step 10"]
    assert titles(chart, "x") == {"step"}
    assert titles(chart, "y") == {"KL divergence of the model from the n-gram model (nat)"}
    assert selections(chart) == {"picked_order", "zoom"}
    assert marked(plots.ngram_crossover(table(), "js", x="tokens")) == ["0.0278 at 10,000 tokens"]


def test_lines_that_fall_to_their_end_have_no_dip() -> None:
    chart = plots.ngram_crossover(table({1: (2.0, 1.0, 0.5, 0.4)}), style=plots.Style(scale="log"))
    assert (marked(chart), drawn(chart)["line"]) == ([], 1)


def test_a_report_draws_both_and_tells_what_was_counted(tmp_path: Path) -> None:
    group = quantities.GROUPS["ngram"]
    axes = {"order": Axis("order", np.array([1, 2]))}
    facts = {"counts_file": "train.npy", "counted_tokens": 15000, "counts_sha256": "ab", "delta": 0.1}
    layout = Layout(axes, (group.__class__(group.name, group.axes, group.introduction, group.quantities, facts),))
    store = RecordedStore.create(
        tmp_path / "s.zarr", layout=layout, attributes={**ATTRIBUTES, "probe": {}}, probe_arrays={}
    )
    for place, step in enumerate(STEPS):
        kl = np.array([KL[order][place] for order in (1, 2)])
        status = np.ones(2, np.uint8)
        rows = [Record(each, status if each.name == "status" else kl) for each in group.quantities]
        revision = Revision(f"step{step}", step=step, tokens=1000 * step)
        store.append(revision, rows, dtype="BF16", weights_sha256=f"{step}")
    sections = list(ngrams(Drawn(store)))
    assert [each.title for each in sections] == ["Unigrams and bigrams", "Losses on sequences of unigrams and bigrams"]
    for each in sections:
        assert marked(each.chart) == ["0.25 at step 10"]
        assert "15,000 tokens counted, of train.npy" in str(each.chart.to_dict()["title"])
