"""The look and the words around a picture."""

from __future__ import annotations

import re

import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style, trajectory
from olmo_dynamics.plots.theme import CATEGORIES
from tests.plots import synthetic
from tests.plots.drawing import subtitle


def test_the_subtitle_holds_definition_revisions_probe_and_note() -> None:
    chart = trajectory(synthetic.logits(), "lse_mean", style=Style(note="1 in 4 revisions shown", probe_tokens=8192))
    assert subtitle(chart) == (
        "ln Z = mean over tokens of ln sum_v exp(z_v). "
        "29 revisions, step 0 to 100,000. Probe of 8,192 tokens. 1 in 4 revisions shown"
    )


def test_a_title_of_ones_own_is_wrapped_and_names_the_file_that_a_reader_saves() -> None:
    spec = trajectory(synthetic.logits(), "lse_mean", style=Style(title="Peak / " * 20)).to_dict()
    assert len(spec["title"]["text"]) == 2
    assert re.fullmatch(r"[a-z-]{1,80}", spec["usermeta"]["embedOptions"]["downloadFileName"])
    assert spec["usermeta"]["embedOptions"]["actions"]["editor"] is False


def test_the_look_is_in_the_chart_itself() -> None:
    config = trajectory(synthetic.logits(), "lse_mean").to_dict()["config"]
    assert config["background"] == "white"
    assert config["range"]["category"] == list(CATEGORIES)
    assert len(set(CATEGORIES)) == 8


def test_style_sets_the_size() -> None:
    spec = trajectory(synthetic.logits(), "lse_mean", style=Style(width=300, height=200)).to_dict()
    assert (spec["width"], spec["height"]) == (300, 200)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": "cubic"}, "scale must be one of auto, linear, log (got 'cubic')"),
        ({"x_scale": "cubic"}, "x_scale must be one of auto, linear, log, symlog (got 'cubic')"),
        ({"x_constant": 0.0}, "x_constant must be above 0 (got 0)"),
        ({"columns": 0}, "columns must be a positive number (got 0)"),
        ({"width": -5}, "width must be a positive number (got -5)"),
        ({"probe_tokens": 0}, "probe_tokens must be a positive number (got 0)"),
    ],
)
def test_a_style_that_means_nothing_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Style(**fields)  # type: ignore[arg-type]
