"""Pictures of representations: square maps of similarity, and the dimensions in use over training."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles
from tests.plots.weights import tables

FEW = np.array([0, 10, 100])


def of_revisions(layers: tuple[int | None, ...] = (3,)) -> pl.DataFrame:
    """Pairs of revisions at each of some layers, as `od.similarity` gives them."""
    pairs = tables.pairs(FEW).rename({"cosine": "cka", "cosine_se": "cka_se"}).drop("group", "distance", "angle")
    layer = [pairs.with_columns(layer=pl.lit(each, pl.Int64), other_layer=pl.lit(each, pl.Int64)) for each in layers]
    return pl.concat(layer).with_columns(site=pl.lit("residual_out"))


def of_places(layers: int = 2) -> pl.DataFrame:
    """Every place with every other: revisions times layers."""
    numbers = pl.DataFrame({"layer": range(layers)})
    one = of_revisions().drop("layer", "other_layer")
    return one.join(numbers, how="cross").join(numbers.select(other_layer="layer"), how="cross").sort("step", "layer")


def test_a_map_of_revisions_is_square_and_in_training_order() -> None:
    chart = plots.representation_map(of_revisions())
    assert drawn(chart)["rect"] == 9
    assert [next(encodings(chart.to_dict(), channel))["sort"] for channel in "xy"] == [["0", "10", "100"]] * 2
    assert chart.to_dict()["title"]["text"] == [
        "Similarity of representations between revisions (residual_out, layer 3)"
    ]
    assert titles(chart, "x") == {"step"}
    assert re.search(r"Standard errors are at most 0\.\d+\.", subtitle(chart))
    color = next(each for each in encodings(chart.to_dict(), "color") if "field" in each)
    assert color["scale"]["domain"] == [0, 1]
    outside = plots.representation_map(of_revisions((None,)).with_columns(cka_se=0.0, cka=pl.col("cka") - 0.8))
    assert "outside the blocks" in " ".join(outside.to_dict()["title"]["text"]) and "Values are exact." in subtitle(
        outside
    )
    assert next(each for each in encodings(outside.to_dict(), "color") if "field" in each)["scale"]["domain"][0] < 0


def test_a_map_of_layers_and_a_map_of_every_place_name_them() -> None:
    layers = plots.representation_map(of_places().filter(pl.col("step") == 10, pl.col("other_step") == 10))
    assert next(encodings(layers.to_dict(), "x"))["sort"] == ["0", "1"]
    assert titles(layers, "y") == {"layer (0 is shallowest)"}
    every = plots.representation_map(of_places(), x="tokens")
    assert drawn(every)["rect"] == 36
    assert next(encodings(every.to_dict(), "y"))["sort"][:2] == ["0 · L0", "0 · L1"]


def ranks() -> pl.DataFrame:
    """The table `representations` of two layers."""
    rows = tables.spectra(("q_proj",)).filter(pl.col("layer") < 2).drop("tensor", "role", "expert", "spectral_norm")
    return rows.rename({"stable_rank": "rank_me"}).with_columns(
        participation_ratio=pl.col("rank_me") / 3, site=pl.lit("residual_out")
    )


def test_two_panels_share_the_layers() -> None:
    chart = plots.representation_ranks(ranks())
    assert drawn(chart)["line"] == 4
    assert titles(chart, "y") == {"RankMe", "PR"}
    assert selections(chart) >= {"picked_layer", "zoom"}
    assert "PR = (sum lambda)**2" in " ".join(subtitle(chart).split())


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: plots.representation_map(of_revisions((0, 1))),
            "representation_map() needs one layer (got 2); filter the table",
        ),
        (
            lambda: plots.representation_map(of_places().filter(pl.col("revision") == pl.col("other_revision"))),
            "representation_map() needs one revision (got 3); filter the table",
        ),
        (
            lambda: plots.representation_map(pl.concat([of_revisions()] * 2)),
            "representation_map() needs one value per pair of places (got several); filter the table",
        ),
        (
            lambda: plots.representation_map(pl.concat([of_revisions(), of_revisions().with_columns(site=pl.lit("q"))])),
            "representation_map() needs one site (got 2); filter the table",
        ),
        (
            lambda: plots.representation_ranks(pl.concat([ranks(), ranks().with_columns(site=pl.lit("q"))])),
            "representation_ranks() needs one site (got 2); filter the table",
        ),
    ],
)  # fmt: skip
def test_tables_that_are_no_single_picture_are_refused(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        draw()
