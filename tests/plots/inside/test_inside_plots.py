"""Pictures of the inside of a model: the numbers that they draw, their axes and words, and what they refuse."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.inside.chosen_revisions import spread
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles
from tests.plots.inside import inside_tables as tables
from tests.plots.inside.inside_tables import DOMAINS, FEW, HEADS, LAYERS


def rows_with(chart: plots.AnyChart, *columns: str) -> list[tuple[Any, ...]]:
    """The distinct rows of those datasets of a chart that have all the columns, sorted."""
    datasets = chart.to_dict()["datasets"].values()
    kept = [tuple(row[name] for name in columns) for rows in datasets for row in rows if set(columns) <= set(row)]
    return sorted(set(kept), key=str)


def test_head_maps_draw_every_head_at_revisions_spread_over_training() -> None:
    found = tables.attention(np.unique(np.geomspace(1, 10_000, 30).round().astype(int)))
    chart = plots.head_map(found, ["entropy_normalised", "sink_mass"])
    assert drawn(chart)["rect"] == 2 * 4 * LAYERS * HEADS
    shown = spread(found, 4, x="step")[0]
    assert shown["panel"].unique(maintain_order=True).to_list() == ["step 1", "step 33", "step 574", "step 10,000"]
    kept = found.filter(pl.col("step").is_in([1, 33, 574, 10_000]))
    told = kept.with_columns(pl.col("sink_mass").round_sig_figs(6)).select("step", "layer", "head", "sink_mass")
    assert rows_with(chart, "step", "layer", "head", "sink_mass") == sorted(told.rows(), key=str)
    assert "4 of 29 revisions." in subtitle(chart)
    scales = [color["scale"]["domain"][0] for color in encodings(chart.to_dict(), "color")]
    assert scales == [0.0, 0.0]  # shares begin at 0
    without = found.filter(step=1).with_columns(step=pl.lit(None, pl.Int64), tokens=pl.lit(None, pl.Int64))
    assert plots.head_map(without, "max_logit").to_dict()["facet"]["sort"] == ["stage1-step1-tokens0B"]


def test_entropy_collapse_draws_means_and_minima_against_uniform_attention() -> None:
    found = tables.attention()
    chart = plots.entropy_collapse(found, uniform=[3.2057531])
    by_layer = found.group_by("step", "layer").agg(mean=pl.col("entropy").mean(), least=pl.col("entropy").min())
    for column, own in (("mean_entropy", "mean"), ("lowest_entropy", "least")):
        wanted = by_layer.select("step", "layer", pl.col(own).round_sig_figs(6)).rows()
        assert rows_with(chart, "step", "layer", column) == sorted(wanted, key=str)
    assert rows_with(chart, "level") == [(3.2057531,)] and "Dashed: uniform attention (3.206)." in subtitle(chart)
    marks = drawn(chart)
    assert (marks["line"], marks["rule"]) == (2 * LAYERS, 2)
    assert titles(chart, "y") == {"H(A) (nat)"} and selections(chart) == {"picked_layer", "zoom"}
    names = [part["layer"][0]["name"] for part in chart.to_dict()["concat"]]
    assert len(set(names)) == 2  # panels of one look have views of their own
    assert all(y["scale"]["domain"][0] == 0 for y in encodings(chart.to_dict(), "y"))


def test_sinks_follow_the_papers_rule_where_windows_are_long_enough() -> None:
    found = tables.attention()
    means = found.group_by("step", "layer").agg(pl.col("sink_rate_64").mean().round_sig_figs(6)).rows()
    chart = plots.sink_birth(found)
    assert rows_with(chart, "step", "layer", "mean_rate") == sorted(means, key=str)
    assert "over the first 64 queries of a window." in subtitle(chart)
    short = plots.sink_birth(found.with_columns(sink_rate_64=float("nan")))
    assert "over whole windows, which are shorter than 64 tokens." in subtitle(short)
    own = found.group_by("step", "layer").agg(pl.col("sink_rate").mean().round_sig_figs(6)).rows()
    assert rows_with(short, "step", "layer", "mean_rate") == sorted(own, key=str)


def test_attention_logits_that_span_decades_have_a_logarithmic_axis() -> None:
    found = tables.attention()
    chart = plots.attention_logits(found, x="tokens")
    largest = found.group_by("step", "layer").agg(pl.col("max_logit").max().round_sig_figs(6)).rows()
    assert rows_with(chart, "step", "layer", "largest_logit") == sorted(largest, key=str)
    assert {y["field"]: y["scale"]["type"] for y in encodings(chart.to_dict(), "y")} == {
        "largest_logit": "log", "mean_largest_logit": "linear",
    }  # fmt: skip


def test_the_induction_bump_has_two_axes_and_the_place_of_the_best_head() -> None:
    heads, losses = tables.attention(), tables.losses()
    chart = plots.induction_bump(heads, losses, uniform=0.0108, chance=8.318)
    best = heads.group_by("step").agg(pl.col("prefix_matching").max().round_sig_figs(6)).rows()
    drawn_rows = rows_with(chart, "step", "series", "value")
    assert [(step, value) for step, series, value in drawn_rows if "prefix" in series] == sorted(best, key=str)
    assert [value for step, series, value in drawn_rows if "repeated" in series and step == 0] == [8.3]
    assert rows_with(chart, "level") == [(0,), (0.0108,), (8.318,)]
    assert chart.to_dict()["concat"][0]["resolve"]["scale"]["y"] == "independent"
    assert titles(chart, "y") == {"prefix-matching score", "loss (nat/token)", "CE(late) − CE(early) (nat)"}
    assert "Dotted: uniform attention scores 0.0108; guessing costs 8.32 nat." in subtitle(chart)
    short = plots.induction_bump(heads, losses.with_columns(in_context_score=float("nan")))
    assert len(short.to_dict().get("concat", [0])) == 1 and drawn(short)["line"] == 3


def test_the_lens_pools_domains_by_their_tokens() -> None:
    found = tables.lens()
    chart = plots.lens_map(found)
    weight = pl.col("token_count")
    pooled = found.group_by("step", "layer").agg((pl.col("cross_entropy") * weight).sum() / weight.sum()).rows()
    assert rows_with(chart, "step", "layer", "cross_entropy") == sorted(pooled, key=str)
    assert drawn(chart)["rect"] >= 3 * LAYERS * len(FEW)
    assert "Mean over the tokens of 2 domains." in subtitle(chart)
    agreement = next(each for each in encodings(chart.to_dict(), "color") if each["field"] == "top1_agreement")
    assert agreement["scale"]["domain"] == [0, 1]


def test_writes_share_one_scale_and_shares_of_the_logits_sum_to_one() -> None:
    found = tables.writes()
    ratios = plots.write_ratios(found)
    kinds = {(y["field"], y["scale"]["type"]) for y in encodings(ratios.to_dict(), "y") if y["field"] != "level"}
    assert kinds == {("write_ratio", "log"), ("write_cosine", "linear")}
    domains = {tuple(y["scale"]["domain"]) for y in encodings(ratios.to_dict(), "y") if y["field"] == "write_ratio"}
    assert len(domains) == 1
    shares = plots.logit_shares(found)
    totals = rows_with(shares, "step", "part", "total_share")
    assert {(part, round(value, 6)) for _, part, value in totals} == {
        ("embedding", 0.1),
        ("attention", -0.3),
        ("MLP", 1.2),
    }
    cells = next(each for each in encodings(shares.to_dict(), "color") if each["field"] == "logit_share")
    assert cells["scale"]["domain"] == [-0.4, 0.4]  # white is 0


def test_gradient_norms_of_experts_are_those_of_all_together() -> None:
    chart = plots.gradient_norms(tables.gradients(experts=4))
    layers = {
        (layer, value)
        for layer, role, value in rows_with(chart, "layer", "role", "probe_l2_norm")
        if role == "down_proj"
    }
    assert layers == {(layer, round(2 * 0.03 * (1 + layer), 6)) for layer in range(LAYERS)}
    assert drawn(chart)["line"] == 2 * LAYERS + 1
    spec = chart.to_dict()
    assert spec["facet"]["sort"] == ["q_proj", "down_proj", "lm_head"] and "scale" not in spec.get("resolve", {})
    assert {y["scale"]["type"] for y in encodings(spec, "y")} == {"log"}


def test_the_total_gradient_norm_has_the_interval_of_its_windows() -> None:
    chart = plots.gradient_size(tables.totals())
    found = {(step, low, high) for step, low, high in rows_with(chart, "step", "low", "high") if low is not None}
    assert {(step, round(low, 4), round(high, 4)) for step, low, high in found} == {
        (step, round(max(value - 1.96 * error, value / 2), 4), round(value + 1.96 * error, 4))
        for step, value, error in zip(FEW.tolist(), [6, 3, 2, 1.5, 1.2], [4.0, 0.5, 0.5, 0.5, 0.5], strict=True)
    }
    marks = drawn(chart)
    assert (marks["line"], marks["area"]) == (2, 1)


def test_growth_exponents_have_the_line_of_no_growth() -> None:
    chart = plots.growth_exponents(tables.totals())
    at_first = {(name, value) for step, name, value in rows_with(chart, "step", "growth_of", "exponent") if step == 0}
    assert at_first == {("activations", 0.6), ("gradients", -0.6), ("activations", 0.5), ("gradients", -0.4)}
    assert len({tuple(y["scale"]["domain"]) for y in encodings(chart.to_dict(), "y")}) == 1
    assert rows_with(chart, "level") == [(0,)] and "Dashed: keeps its size (0)." in subtitle(chart)


def test_the_noise_scale_shows_open_intervals_and_says_what_has_no_point() -> None:
    chart = plots.gradient_noise(tables.totals())
    found = rows_with(chart, "step", "noise_scale_low", "middle", "high", "open")
    assert found == sorted(
        [(0, 200.0, 400.0, 900.0, False), (10, 300.0, 800.0, 8000.0, True), (100, 500.0, None, 8000.0, True),
         (10_000, 900.0, 1600.0, 4000.0, False)],
        key=str,
    )  # fmt: skip
    assert (
        "|G|² not positive at 1 revision: no point, a lower end alone. Fewer than 8 windows at 1 revision."
        in subtitle(chart)
    )
    assert {y["scale"]["type"] for y in encodings(chart.to_dict(), "y")} == {"log"}


def test_massive_activations_are_drawn_against_the_border_of_the_paper() -> None:
    top, median, places = tables.massive()
    chart = plots.massive_activations(top, median)
    last = rows_with(chart, "layer", "size", "value", "revision")
    assert {(size, value) for _, size, value, _ in last} == {
        ("largest", 1001.0), ("second", 500.5), ("third", 333.667), ("median", 0.2),
    }  # fmt: skip
    assert rows_with(chart, "border") == [(200.0,)]  # 1,000 times the median
    assert drawn(chart)["rect"] >= LAYERS * len(FEW)
    discs = plots.massive_places(places)
    found = rows_with(discs, "layer", "feature", "where", "number")
    assert found == sorted(
        [(layer, *rest) for layer in range(LAYERS)
         for rest in ((3, "first position", 5), (3, "later position", 2), (5, "later position", 1))],
        key=str,
    )  # fmt: skip


def test_losses_by_position_are_means_of_thirds_of_octaves() -> None:
    found = tables.positions()
    chart = plots.loss_by_position(found)
    one = {position: value for step, domain, position, value in rows_with(chart, "step", "domain", "position", "value")
           if step == 0 and domain == DOMAINS[0]}  # fmt: skip
    assert [one[position] for position in (1, 2, 4)] == [8.0, 7.0, 6.0]
    ends = [4 * 2 ** (third / 3) for third in range(14)]
    bins = [[p for p in range(5, 65) if low <= p < high] for low, high in pairwise(ends)]
    wanted = {round(float(np.mean(held)), 1): float(np.mean([8 - np.log2(p) for p in held])) for held in bins if held}
    assert {position: one[position] for position in one if position > 4} == pytest.approx(wanted, rel=1e-5)
    assert chart.to_dict()["facet"]["sort"] == list(DOMAINS)


def test_predictions_start_at_guessing_and_embedding_rows_share_an_axis() -> None:
    chart = plots.prediction_panel(tables.logits(), vocabulary=4_096)
    assert rows_with(chart, "level") == [(math.log(4_096),)] and len(chart.to_dict()["concat"]) == 4
    assert "Dashed: ln V of 4,096 tokens (8.318)." in subtitle(chart)
    rows = plots.embedding_rows(*tables.embeddings())
    found = {(name, kind, value) for name, kind, value in rows_with(rows, "embedding", "kind", "value")}
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    frequent, rare, unseen = (
        "most frequent tenth of the probe's tokens",
        "rarest tenth of the probe's tokens",
        "tokens that the probe does not hold",
    )
    assert found == {(embedding, "padding", 0.01)} | {
        (name, kind, value) for name in (head, embedding) for kind, value in ((frequent, 0.2), (rare, 0.02), (unseen, 0.02))
    }  # fmt: skip
    assert len({str(y["scale"]) for y in encodings(rows.to_dict(), "y")}) == 1


def test_token_trends_are_stacked_to_the_whole() -> None:
    chart = plots.token_trends(tables.classes())
    assert dict(rows_with(chart, "trend", "share")) == {
        "learned": 0.6,
        "stagnated": 0.2,
        "high variance": 0.15,
        "unlearned": 0.05,
    }
    assert {y["stack"] for y in encodings(chart.to_dict(), "y") if "stack" in y} == {"zero"}
    assert "1,234 tokens; at each revision, the trend since the first after step 0." in subtitle(chart)
    assert drawn(chart)["area"] == 4


def test_a_single_revision_is_drawn_by_every_plot() -> None:
    one = np.array([1_000])
    (top, median, places), heads, totals = tables.massive(one), tables.attention(one), tables.totals(one)
    charts = [
        plots.head_map(heads, "entropy"), plots.entropy_collapse(heads), plots.induction_bump(heads, tables.losses(one)),
        plots.lens_map(tables.lens(one)), plots.write_ratios(tables.writes(one)), plots.logit_shares(tables.writes(one)),
        plots.gradient_norms(tables.gradients(one)), plots.gradient_size(totals), plots.growth_exponents(totals),
        plots.gradient_noise(totals), plots.massive_activations(top, median), plots.massive_places(places),
        plots.loss_by_position(tables.positions(one)), plots.prediction_panel(tables.logits(one)),
        plots.embedding_rows(*tables.embeddings(one)), plots.token_trends(tables.classes(one)),
    ]  # fmt: skip
    assert all("1 revision" in subtitle(chart) for chart in charts)


@pytest.mark.parametrize(("draw", "message"), [
    (lambda: plots.head_map(tables.attention().drop("head"), "entropy"), "the table must have a column 'head' (got "),
    (lambda: plots.head_map(pl.concat([tables.attention()] * 2), "entropy"),
     "a map needs one value of 'entropy' per revision, layer and head (got several)"),
    (lambda: plots.entropy_collapse(tables.attention().clear()),
     "the table must hold values of 'mean_entropy' to draw (got none: no rows)"),
    (lambda: plots.gradient_noise(tables.totals().with_columns(noise_scale_low=float("nan"), noise_status=0)),
     "the table must hold noise scales with an interval to draw (got none: the probe has fewer than 8 windows)"),
    (lambda: plots.logit_shares(tables.writes().with_columns(logit_share=float("nan"))),
     "the table must hold values of 'logit_share' to draw (got none: no pass reached the head)"),
    (lambda: plots.massive_activations(tables.massive()[0].clear(), tables.massive()[1]),
     "the table must hold the largest activations of some layer to draw (got none)"),
    (lambda: plots.loss_by_position(tables.positions().clear()),
     "the table must hold values of 'value' to draw (got none: no rows)"),
    (lambda: plots.token_trends(tables.classes().clear()), "the table must hold values of 'share' to draw (got none: no rows)"),
])  # fmt: skip
def test_a_table_that_cannot_be_drawn_is_refused_in_one_line(draw: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        draw()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
