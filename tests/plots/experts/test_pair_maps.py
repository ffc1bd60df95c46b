"""Maps of experts against experts, and specialisation in token ids."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics import frames, plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import Choices
from olmo_dynamics.plots import Style
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles

EXPERTS, K, LAYERS = 6, 2, 3


@pytest.fixture(scope="module")
def choices() -> Choices:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, 200).tolist()
    outputs = {
        name: [{"input_ids": ids, "predicted_token_ids": rng.integers(0, 4, 200).tolist(),
                "exp_ids": np.argsort(rng.random((200, EXPERTS, LAYERS)), axis=1)[:, :K].tolist()}]
        for name in ("step0", "step10", "step200")
    }  # fmt: skip
    return Choices.of_outputs(outputs, experts=EXPERTS)


def test_co_activation_has_a_panel_for_each_layer_without_its_diagonal(choices: Choices) -> None:
    pairs = pl.concat([frames.co_activation(choices, layer, revision="step200") for layer in range(LAYERS)])
    chart = plots.co_activation(pairs, style=Style(probe_tokens=99))
    assert drawn(chart)["rect"] == LAYERS * EXPERTS * (EXPERTS - 1)
    assert chart.to_dict()["facet"]["sort"] == ["layer 0", "layer 1", "layer 2"]
    assert subtitle(chart) == (
        "Share of the tokens of expert i that are sent to expert j too, N_ij / N_i. Random routing would give 0.2. "
        "1 revision, step 200. Probe of 99 tokens."
    )
    assert (titles(chart, "x"), titles(chart, "y")) == ({"expert j"}, {"expert i"})


def test_co_activation_of_two_layers_is_one_map(choices: Choices) -> None:
    chart = plots.co_activation(frames.co_activation(choices, 0, 2, revision="step200"))
    assert drawn(chart)["rect"] == EXPERTS * EXPERTS
    assert chart.to_dict()["title"]["text"] == ["Co-activation of experts across layers"]


def test_several_revisions_are_refused_on_one_map(choices: Choices) -> None:
    message = "a map needs one value per expert and partner (got several); filter the table to one revision"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        plots.co_activation(frames.co_activation(choices, 0))


def cosines(layers: tuple[int, ...] = (1,)) -> pl.DataFrame:
    rows = [
        ("main", layer, matrix, i, j, 0.1 * (i + j))
        for layer in layers for matrix in ("router", "gate_proj", "up_proj", "down_proj")
        for i in range(4) for j in range(4) if i != j
    ]  # fmt: skip
    found = pl.DataFrame(rows, schema=["revision", "layer", "matrix", "expert", "partner", "value"], orient="row")
    return found.with_columns(step=pl.lit(None, pl.Int64), tokens=pl.lit(None, pl.Int64))


def test_likeness_has_a_panel_for_each_matrix() -> None:
    chart = plots.expert_similarity(cosines())
    assert drawn(chart)["rect"] == 4 * 4 * 3
    assert chart.to_dict()["facet"]["sort"] == ["router", "gate_proj", "up_proj", "down_proj"]
    assert chart.to_dict()["title"]["text"] == ["Likeness of the experts of layer 1"]
    several = plots.expert_similarity(cosines((1, 2)))
    assert several.to_dict()["facet"]["sort"][:2] == ["router, layer 1", "gate_proj, layer 1"]
    message = "a figure can have at most 9 maps of experts (got 12); filter the table"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        plots.expert_similarity(cosines((1, 2, 3)))


def shares(choices: Choices, by: str) -> pl.DataFrame:
    tables = [
        frames.vocabulary_specialisation(frames.token_counts(choices, kind), by=by)  # type: ignore[arg-type]
        for kind in ("input", "predicted", "true")
    ]
    return pl.concat(tables).filter(revision="step200")


def test_each_kind_of_token_has_its_own_name_and_values(choices: Choices) -> None:
    """The legend of the published figure by expert gives the values of true tokens the name of predicted ones."""
    table = shares(choices, "layer")
    chart = plots.vocabulary_specialisation(table)
    [rows] = chart.to_dict()["datasets"].values()
    named = {"input": "input token", "predicted": "predicted next token", "true": "true next token"}
    for kind, name in named.items():
        expected = table.filter(vocabulary=kind)["value"].to_list()
        assert [row["value"] for row in rows if row["token counted"] == name] == pytest.approx(expected, rel=1e-5)
    colors = next(encodings(chart.to_dict(), "color"))["scale"]
    assert dict(zip(colors["domain"], colors["range"], strict=True)) == {
        "input token": "#CC79A7", "predicted next token": "#56B4E9", "true next token": "#0072B2",
    }  # fmt: skip
    marks = drawn(chart)
    assert (marks["line"], marks["symbol"]) == (3, 3 * LAYERS)


def test_experts_are_dots_with_their_mean(choices: Choices) -> None:
    table = shares(choices, "expert").filter(layer=1)
    chart = plots.vocabulary_specialisation(table)
    marks = drawn(chart)
    assert "line" not in marks and marks["symbol"] >= len(table) and marks["rule"] >= 3
    assert chart.to_dict()["title"]["text"] == ["Specialisation in token ids by expert of layer 1"]
    assert "Dashed: the mean over experts. 1 revision" in subtitle(chart)


def test_other_tables_of_token_ids_are_refused(choices: Choices) -> None:
    table = shares(choices, "expert")
    cases = {
        "vocabulary_specialisation() needs exactly one layer (got 3); filter the table": table,
        "vocabulary must be one of input, predicted, true (got 'next')": table.filter(layer=0).with_columns(
            vocabulary=pl.lit("next")
        ),
        "vocabulary_specialisation() needs exactly one revision (got 2); filter the table": pl.concat(
            [table, table.with_columns(revision=pl.lit("main"))]
        ),
    }
    for message, given in cases.items():
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            plots.vocabulary_specialisation(given)


def test_saturation_of_several_numbers_of_experts_has_a_panel_for_each(choices: Choices) -> None:
    every = pl.concat([frames.saturation(choices, top=top) for top in (1, K)])
    chart = plots.saturation(every)
    assert drawn(chart)["line"] == 2 * LAYERS
    assert chart.to_dict()["facet"]["sort"] == ["top 1", "top 2"]
    assert selections(chart) == {"picked_layer", "zoom"}
