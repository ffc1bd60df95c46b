"""How every picture looks, and what is said around it: palette, type sizes, title, subtitle.

The look is written into each chart's own `config`, not into a theme switched on elsewhere, so that a chart pasted into a
notebook, a page or a paper carries it along. Colours are readable with any colour vision: Okabe and Ito's eight for
categories, viridis for magnitudes and for depth.

    >>> from olmo_dynamics.plots.look import Style
    >>> style = Style(note="every 10th revision", probe_tokens=8192)
    >>> style.note
    'every 10th revision'
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Literal, get_args

import altair as alt

from olmo_dynamics.errors import OptionError

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart | alt.ConcatChart
"""What the functions of this room return."""

CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#B8A800")
"""Okabe and Ito's colours, the yellow darkened so that a thin line of it shows on white."""

SEQUENTIAL = alt.SchemeParams(name="viridis", extent=[0.0, 0.92])
"""Dark to light for small to large; the palest end is cut off because thin lines of it vanish on white."""

INK, QUIET, FAINT = "#1b1e23", "#5b6470", "#e3e6ea"
"""Colours of words, of lesser words and axes, and of grids."""

_TITLE, _SUBTITLE = 80, 106  # letters in a line

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"

YScale = Literal["auto", "linear", "log"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Words around a picture and its size; a field left at its default is decided from the data.

    `note` is printed under the title (how the table was thinned, say), `probe_tokens` is the number of tokens measured on,
    `facet` is the column that splits the picture into panels ("" for a single panel), `width` and `height` are one panel's
    size in pixels, `columns` the panels in a row, `scale` the value axis or colour scale.
    """

    title: str = ""
    note: str = ""
    probe_tokens: int | None = None
    facet: str | None = None
    columns: int = 4
    width: int | None = None
    height: int | None = None
    scale: YScale = "auto"

    def __post_init__(self) -> None:
        if self.scale not in get_args(YScale):
            raise OptionError(f"scale must be one of {', '.join(get_args(YScale))}; got {self.scale!r}")
        for name in ("columns", "width", "height", "probe_tokens"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise OptionError(f"{name} must be a positive number; got {size}")


PLAIN = Style()
"""Everything decided from the data, nothing said beyond it."""


def finished(chart: AnyChart, heading: str, lines: list[str], style: Style) -> AnyChart:
    """A chart with its look, its title, and a subtitle: the lines, the probe's size, the note.

    What is finished goes beside others through `linked`, not through altair's `|` and `&`, which refuse a chart's own look.
    """
    probe = f"Probe of {style.probe_tokens:,} tokens." if style.probe_tokens else ""
    *above, last = lines
    said = [*above, " ".join(part for part in (last, probe) if part), style.note]
    below = [row for line in said for row in textwrap.wrap(line, _SUBTITLE)]
    title = textwrap.wrap(style.title or heading, _TITLE)
    words = alt.TitleParams(text=title, subtitle=below) if below else alt.TitleParams(text=title)
    named = chart.properties(title=words, description=" ".join([*title, *below]), usermeta=_embedding(title))
    return dressed(named)


def dressed(chart: AnyChart) -> AnyChart:
    """A chart with the look written into its config."""
    result: AnyChart = chart.configure(**_config())
    return result


def _embedding(title: list[str]) -> dict[str, Any]:
    """Options that vega-embed reads from the chart: a file name for what a reader saves, and no link to a web editor."""
    name = "".join(letter if letter.isalnum() else "-" for letter in " ".join(title).lower())
    actions = {"export": True, "source": True, "compiled": False, "editor": False}
    return {"embedOptions": {"downloadFileName": name.strip("-")[:80] or "figure", "actions": actions}}


def _config() -> dict[str, Any]:
    words = {"labelFont": FONT, "titleFont": FONT, "labelColor": QUIET, "titleColor": INK}
    axis = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8, "labelPadding": 4,
            "gridColor": FAINT, "domainColor": QUIET, "tickColor": QUIET, "tickSize": 4}  # fmt: skip
    title = {"anchor": "start", "font": FONT, "fontSize": 15, "fontWeight": 600, "color": INK, "offset": 14, "subtitleFont": FONT,
             "subtitleFontSize": 12, "subtitleColor": QUIET, "subtitlePadding": 6, "subtitleLineHeight": 16}  # fmt: skip
    legend = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "symbolStrokeWidth": 2.5,
              "symbolLimit": 128, "labelLimit": 260, "titleLimit": 320, "gradientThickness": 12}  # fmt: skip
    return {
        "background": "white",
        "padding": 12,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {**words, **axis},
        "legend": {**words, **legend},
        "header": {**words, "labelFontSize": 12, "labelFontWeight": 600, "labelColor": INK, "labelPadding": 4},
        "title": title,
        "mark": {"color": CATEGORIES[0]},
        "line": {"strokeWidth": 1.6, "strokeJoin": "round", "strokeCap": "round"},
        "range": {"category": list(CATEGORIES)},
    }
