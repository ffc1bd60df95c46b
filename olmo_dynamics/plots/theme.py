"""The theme of every picture: palette, type sizes, title and subtitle.

The theme is written into each chart's own `config` and not enabled globally, so a chart pasted into a notebook, a page or a
paper keeps it. Colours are readable with any colour vision: Okabe and Ito's eight for categories, viridis for magnitudes
and for depth.

    >>> from olmo_dynamics.plots.theme import Style
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
"""The return type of every plot."""

CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#B8A800")
"""Okabe and Ito's colours, with the yellow darkened so that a thin line of it shows on white."""

SEQUENTIAL = alt.SchemeParams(name="viridis", extent=[0.0, 0.92])
"""Dark to light for small to large, without the palest end, whose thin lines vanish on white."""

INK, QUIET, FAINT = "#1b1e23", "#5b6470", "#e3e6ea"
"""Colours of text, of secondary text and axes, and of grids."""

_TITLE, _SUBTITLE = 80, 106  # letters in a line

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"

YScale = Literal["auto", "linear", "log"]
XScale = Literal["auto", "linear", "log", "symlog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The text around a picture and its size; a field left at its default is decided from the data.

    `note` is printed under the title (for example, how the table was thinned), `probe_tokens` is the number of tokens
    measured on, `facet` is the column that splits the picture into panels ("" for a single panel), `width` and `height` are
    the size of one panel in pixels, `columns` is the number of panels in a row, `scale` is that of the value axis or the
    colours. `x_scale` is the scale of the time axis, and a symlog one is linear below `x_constant`; a page gives all its
    charts the same.
    """

    title: str = ""
    note: str = ""
    probe_tokens: int | None = None
    facet: str | None = None
    columns: int = 4
    width: int | None = None
    height: int | None = None
    scale: YScale = "auto"
    x_scale: XScale = "auto"
    x_constant: float | None = None

    def __post_init__(self) -> None:
        for name, scales in (("scale", get_args(YScale)), ("x_scale", get_args(XScale))):
            if getattr(self, name) not in scales:
                raise OptionError(f"{name} must be one of {', '.join(scales)} (got {getattr(self, name)!r})")
        if self.x_constant is not None and self.x_constant <= 0:
            raise OptionError(f"x_constant must be above 0 (got {self.x_constant:g})")
        for name in ("columns", "width", "height", "probe_tokens"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise OptionError(f"{name} must be a positive number (got {size})")


PLAIN = Style()
"""The default style: everything decided from the data, no note."""


def finalize(chart: AnyChart, heading: str, lines: list[str], style: Style) -> AnyChart:
    """A chart with the theme, its title, and a subtitle: the lines, the probe's size, the note.

    Put finalized charts side by side with `linked`; altair's `|` and `&` refuse charts with a config of their own.
    """
    probe = f"Probe of {style.probe_tokens:,} tokens." if style.probe_tokens else ""
    *above, last = lines
    text = [*above, " ".join(part for part in (last, probe) if part), style.note]
    below = [row for line in text for row in textwrap.wrap(line, _SUBTITLE)]
    title = textwrap.wrap(style.title or heading, _TITLE)
    params = alt.TitleParams(text=title, subtitle=below) if below else alt.TitleParams(text=title)
    named = chart.properties(title=params, description=" ".join([*title, *below]), usermeta=_embedding(title))
    return themed(named, below=isinstance(chart, alt.FacetChart))


def themed(chart: AnyChart, *, below: bool = False) -> AnyChart:
    """A chart with the theme written into its config; legends are beside it, or `below` where panels take the width."""
    config = _config()
    config["legend"] |= {"orient": "bottom"} if below else {}
    result: AnyChart = chart.configure(**config)
    return result


def _embedding(title: list[str]) -> dict[str, Any]:
    """Options that vega-embed reads from the chart: a file name for saved pictures, and no link to a web editor."""
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
        "line": {"strokeWidth": 1.6, "strokeJoin": "round"},
        "range": {"category": list(CATEGORIES)},
    }
