"""Figures for print: their width in the file that is written, their type, and their caption."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style, caption_text
from tests.plots import synthetic

FEW = np.array([0, 10, 100, 1_000])


def _stream() -> Any:
    return synthetic.activations(FEW).filter(site="residual_out")


FIGURES: dict[str, Callable[[Style], Any]] = {
    "one panel, names at the lines' ends": lambda style: plots.loss_by_domain(synthetic.loss(FEW), style=style),
    "a map and its bar": lambda style: plots.layer_step_map(_stream(), "rms", style=style),
    "two pictures": lambda style: plots.norms_panel(_stream(), "rms", style=style),
    "panels in rows": lambda style: plots.trajectory(synthetic.parameters(FEW), "rms", style=style),
}


FIT = [(name, 174.0) for name in FIGURES] + [(name, "single") for name in list(FIGURES)[:2]]


@pytest.mark.parametrize(("name", "columns"), FIT)
def test_a_pdf_is_as_wide_as_stated(name: str, columns: str | float, tmp_path: Path) -> None:
    figure = FIGURES[name](Style.paper(columns))
    figure.save(tmp_path / "figure.pdf")
    box = re.search(rb"/MediaBox ?\[([^\]]*)\]", (tmp_path / "figure.pdf").read_bytes())
    assert box is not None
    left, _, right, _ = map(float, box.group(1).split())
    assert (right - left) / 72 * 25.4 == pytest.approx(84 if columns == "single" else columns, abs=0.2)


def _values(spec: Any, key: str) -> Iterator[Any]:
    if isinstance(spec, dict):
        for name, value in spec.items():
            if name == key:
                yield value
            yield from _values(value, key)
    elif isinstance(spec, list):
        for each in spec:
            yield from _values(each, key)


def test_type_is_for_print_and_there_is_no_title() -> None:
    spec = FIGURES["one panel, names at the lines' ends"](Style.paper("double")).to_dict()
    assert "title" not in spec
    sizes = [*_values(spec, "labelFontSize"), *_values(spec, "titleFontSize"), *_values(spec["layer"], "fontSize")]
    assert min(sizes) >= 7
    assert max(sizes) <= 8
    panel = next(each for each in [spec, *spec["layer"]] if "width" in each)
    assert 0.54 <= panel["height"] / panel["width"] <= 1
    assert spec["config"]["legend"]["orient"] == "bottom"


def test_a_legend_goes_inside() -> None:
    spec = FIGURES["a map and its bar"](Style.paper("single", legend="inside")).to_dict()
    assert spec["config"]["legend"]["orient"] == "top-right"


def test_the_caption_says_what_title_and_subtitle_say() -> None:
    style = {"probe_tokens": 8192, "note": "1 in 4 revisions shown"}
    printed = FIGURES["one panel, names at the lines' ends"](Style.paper("single", **style))
    shown = FIGURES["one panel, names at the lines' ends"](Style(**style))  # type: ignore[arg-type]
    assert caption_text(printed) == caption_text(shown)
    assert caption_text(shown).endswith("Probe of 8,192 tokens. 1 in 4 revisions shown.")


def test_a_chart_of_elsewhere_has_no_caption() -> None:
    message = "caption_text() needs a chart of olmo_dynamics.plots (this chart holds no caption)"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        caption_text(alt.Chart())


def test_a_figure_that_does_not_fit_is_refused() -> None:
    message = "the figure does not fit into 20 mm; give it fewer columns, a legend inside, or more width"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        FIGURES["panels in rows"](Style.paper(20))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("triple", "columns must be single, double, or a width in millimetres (got 'triple')"),
        (5, "the width of a figure must be from 20 to 1,000 mm (got 5)"),
        (float("nan"), "the width of a figure must be from 20 to 1,000 mm (got nan)"),
    ],
)
def test_a_width_that_means_nothing_is_refused(columns: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Style.paper(columns)
