"""Published figures, each by one call from a store, a run or a table: axes, captions, errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import olmo_dynamics as od
from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.plots.published import PUBLISHED
from olmo_dynamics.progress import Progress
from tests.plots.drawing import drawn, encodings
from tests.runs import write_family_run

OF_DEMO = ("embedding_rows", "bits_per_byte")
WEIGHTS = ("rms_by_layer", "embedding_rows", "layer_step_map", "rotation")


def checked(name: str, source: Any, x: str, probe: str) -> str:
    """One figure on both axes' scales, whose caption names the data and the probe."""
    chart = plots.published_figure(name, source, x=x, style=plots.Style(x_scale="symlog"))
    assert sum(drawn(chart).values()) > 0
    fields = {found.get("field") for found in encodings(chart.to_dict(), "x")}
    over_depth = name == "depth_profile"
    assert over_depth or fields & {x, f"position_{x}", "start"}
    scales = [found["scale"]["type"] for found in encodings(chart.to_dict(), "x") if found.get("field") in (x, "start")]
    assert over_depth or set(scales) == {"symlog"}
    caption = plots.caption_text(chart)
    assert probe in caption and "revision" in caption, caption
    return caption


@pytest.mark.parametrize("name", OF_DEMO)
def test_figures_of_the_demos_store(name: str, small_demo: Path) -> None:
    store = od.open_store(small_demo / "store.zarr")
    probe = (
        "weights alone, without a probe"
        if name in WEIGHTS
        else f"Probe of {store.attributes['probe']['tokens']:,} tokens."
    )
    checked(name, store, "tokens", probe)


def test_loss_and_gradient_with_spikes(small_demo: Path) -> None:
    chart = plots.published_figure("loss_and_gradient", small_demo / "run", x="tokens")
    assert plots.caption_text(chart) == (
        "Logged metrics of the training. Gradient norms are sqrt(Σ over tensors ‖g‖²) before clipping. 20 logged steps, step 1 "
        f"to 20. Data: {small_demo / 'run'}."
    )
    drawing = np.random.default_rng(0)
    values = 3 + 0.01 * drawing.standard_normal(1_600)
    values[[1_200, 1_500]] = 9.0, 0.5
    steps = np.arange(1, 1_601)
    logs = pl.DataFrame({"step": steps, "tokens": 512 * steps, "loss": values, "gradient_norm": np.full(1_600, 0.5)})
    spiked = plots.published_figure("loss_and_gradient", logs, x="tokens")
    caption = plots.caption_text(spiked)
    rule = "Spikes (rings), OLMo 2's rule, 7 σ from the mean of the 1,000 values before"
    assert f"{rule}: loss 0.33 % (2 spikes), gradient norm 0 % (0 spikes)." in caption
    rings = [rows for rows in spiked.to_dict()["datasets"].values() if len(rows) == 2]
    assert [[row["tokens"], row["loss"]] for row in rings[0]] == [[512 * 1_201, 9.0], [512 * 1_501, 0.5]]
    core = plots.caption_text(plots.training_logs(logs, spike_rule="OLMo-core"))
    assert "OLMo-core's rule, 6 σ above the mean of the 128 values before: loss 0.062 % (1 spike)" in core
    assert "Spikes" not in plots.caption_text(plots.training_logs(logs, spike_rule=None))
    with pytest.raises(OptionError, match=r"^spike_rule must be auto, OLMo 2, OLMo-core or None \(got 'paper'\)$"):
        plots.training_logs(logs, spike_rule="paper")


def test_tables_come_from_files_too(tmp_path: Path) -> None:
    curve = pl.DataFrame(
        {"start": "a", "end": "b", "share": [0.0, 0.5, 1.0], "domain": "all tokens", "cross_entropy": [3.0, 3.5, 2.0],
         "bits_per_byte": None, "scored_tokens": 80}, schema_overrides={"bits_per_byte": pl.Float64}
    )  # fmt: skip
    curve.write_parquet(tmp_path / "curve.parquet")
    figure = plots.published_figure("interpolation", tmp_path / "curve.parquet", style=plots.Style.paper("single"))
    assert plots.caption_text(figure) == (
        "Cross-entropy between two revisions. E(θ(a)) with θ(a) = (1 - a) θ₁ + a θ₂. Dashed: the chord between both ends. "
        f"Barrier (nat/token): a → b: 1, 1 over the chord. 3 points, 80 scored tokens. Data: {tmp_path / 'curve.parquet'}."
    )
    both = pl.concat([curve, curve.with_columns(end=pl.lit("c"))])
    assert "a → c" in json.dumps(plots.interpolation(both).to_dict(), ensure_ascii=False)
    for y, message in (
        ("bits_per_byte", r"^the table must hold values of 'bits_per_byte' to draw \(got none\)$"),
        ("kl", r"^y must be cross_entropy or bits_per_byte \(got 'kl'\)$"),
    ):
        with pytest.raises(OptionError, match=message):
            plots.interpolation(curve, y)


def test_errors_say_what_a_figure_needs(small_demo: Path) -> None:
    store = od.open_store(small_demo / "store.zarr")
    with pytest.raises(
        OptionError, match=r"^no published figure is called 'max_logits'; did you mean 'max_logit'\?; known: rms_by_"
    ):
        plots.published_figure("max_logits", store)
    with pytest.raises(
        OptionError, match=r"^max_logit needs the group attention, which \S+ lacks; collect it with --record attention$"
    ):
        plots.published_figure("max_logit", store)
    with pytest.raises(
        OptionError, match=r"^rotation is drawn from a store \(got a table\); give the store or its path$"
    ):
        plots.published_figure("rotation", pl.DataFrame())
    with pytest.raises(
        OptionError,
        match=r"^interpolation is drawn from the table of `od\.interpolate\(run, first, second\)` \(got a store\)$",
    ):
        plots.published_figure("interpolation", store)
    with pytest.raises(OptionError, match=r"^critical_batch is drawn from .*\(got nowhere, which is not a file\)$"):
        plots.published_figure("critical_batch", "nowhere")


@pytest.fixture(scope="module")
def whole(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    """The small run with the groups of all figures of dense models."""
    folder = tmp_path_factory.mktemp("whole")
    run = shutil.copytree(small_run / "run", folder / "run")
    groups = ("parameters", "embeddings", "activations", "loss", "attention", "ngram", "induction", "sketches")
    corpus = small_run / "corpus" / "train.npy"
    return od.collect(run, out=folder / "s.zarr", record=groups, batch="4x64", counts=corpus, progress=Progress())


@pytest.mark.slow
@pytest.mark.parametrize("x", ["step", "tokens"])
def test_every_figure_of_a_store(x: str, whole: RecordedStore, tmp_path: Path) -> None:
    moe_run = write_family_run(
        tmp_path / "moe", ("step1-tokens1024", "step8-tokens8192", "step64-tokens65536"), "olmoe"
    )
    moe = od.collect(moe_run, out=tmp_path / "moe.zarr", record=("loss", "routing"), batch="4x64", progress=Progress())
    failed = {}
    for name, figure in PUBLISHED.items():
        if figure.source != "store" or name == "rotation":  # a run this short comes to no equilibrium
            continue
        source = moe if name == "routing" else whole
        probe = "without a probe" if name in WEIGHTS else "Probe of 256 tokens."
        try:
            caption = checked(name, source, x, probe)
            printed = plots.published_figure(name, source, x=x, style=plots.Style.paper("double"))
            assert plots.caption_text(printed) == caption
        except Exception as error:  # all failures are told together
            failed[name] = repr(error)
    assert failed == {}
    with pytest.raises(OptionError, match="equilibrium"):
        plots.published_figure("rotation", whole, x=x)
