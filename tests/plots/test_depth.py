"""Profiles over depth."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import depth_profile
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections, titles

FEW = np.array([0, 10, 100, 1_000, 10_000])


def test_each_revision_is_a_line_from_the_embedding_through_the_blocks() -> None:
    chart = depth_profile(synthetic.activations(FEW), "rms")
    marks = drawn(chart)
    assert marks["line"] == len(FEW)
    assert marks["symbol"] == len(FEW) * (synthetic.LAYERS + 1)
    assert titles(chart, "x") == {"depth (0: embedding, 1: after layer 0, …)"}
    assert titles(chart, "y") == {"root mean square"}
    assert selections(chart) == {"pointed_revision"}


def test_revisions_are_coloured_by_the_logarithm_of_the_step() -> None:
    color = next(encodings(depth_profile(synthetic.activations(FEW), "rms", x="tokens").to_dict(), "color"))
    assert (color["field"], color["scale"]["type"], color["legend"]["type"]) == ("tokens", "symlog", "gradient")


def test_weights_are_drawn_over_their_layer_in_a_panel_for_each_role() -> None:
    chart = depth_profile(synthetic.parameters(FEW, ("q_proj", "up_proj")), "rms")
    assert drawn(chart)["line"] == 2 * len(FEW)
    assert titles(chart, "x") == {"layer (0 is shallowest)"}


def test_a_table_with_nothing_inside_the_blocks_is_refused() -> None:
    message = "depth_profile() needs values of 'rms' inside the blocks; every row's layer is null; choose another table"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        depth_profile(synthetic.activations(FEW).filter(pl.col("site") == "final_norm"), "rms")
