"""The theme of every picture: palette, type sizes, title and subtitle.

The theme is written into each chart's own `config` and not enabled globally, so a chart pasted into a notebook, a page or a
paper keeps it. Colours are readable with any colour vision: Okabe and Ito's for categories, viridis for magnitudes
and for depth.

    >>> from olmo_dynamics.plots.theme import Style
    >>> style = Style(note="every 10th revision", probe_tokens=8192)
    >>> style.note
    'every 10th revision'
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import altair as alt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.figures.printed import POINTS_PER_MM, TOTAL_MM, printed

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart | alt.ConcatChart
"""The return type of every plot."""

CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#882255")
"""Okabe and Ito's colours, with Tol's wine in place of the yellow, of which a thin line would not show on white."""

SEQUENTIAL = alt.SchemeParams(name="viridis", extent=[0.0, 0.92])
"""Dark to light for small to large, without the palest end, whose thin lines vanish on white."""

INK, QUIET, FAINT = "#1b1e23", "#5b6470", "#e3e6ea"
"""Colours of text, of secondary text and axes, and of grids."""

_TITLE, _SUBTITLE = 80, 106  # letters in a line

WORDS = "words"
"""The key, in a chart's `usermeta`, of its words about itself: `formulas`, `lines`, `axes`, and on a page `said`."""

AXES = "axes"
"""The key, in these words, of the titles of axes that all panels of a chart share."""

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"

YScale = Literal["auto", "linear", "log"]
XScale = Literal["auto", "linear", "log", "symlog"]
Legend = Literal["outside", "inside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The text around a picture and its size; a field left at its default is decided from the data.

    `note` is printed under the title (for example, how the table was thinned), `probe_tokens` is the number of tokens
    measured on, `facet` is the column that splits the picture into panels ("" for a single panel), `width` and `height` are
    the size of one panel in pixels, `columns` is the number of panels in a row, `scale` is that of the value axis or the
    colours. `x_scale` is the scale of the time axis, and a symlog one is linear below `x_constant`; a page gives all its
    charts the same. `total_mm` makes a figure for print of that total width (see `paper`), and `legend` puts its legends
    inside or outside the panels.
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
    total_mm: float | None = None
    legend: Legend = "outside"

    @classmethod
    def paper(cls, columns: str | float = "single", *, legend: Legend = "outside", **fields: Any) -> Self:
        """A style for a figure in a paper: a stated total width, type of about 7 points, no title.

        The chart's `save` writes the figure: a `.pdf` has exactly the width; in a `.svg` a unit is a point, so state the
        width where you place it; for a `.png` give `scale_factor=300 / 72` for 300 dots per inch. The words of title and
        subtitle are the caption, `olmo_dynamics.plots.caption_text(chart)`.

        Args:
            columns: "single" for 84 mm, "double" for 174 mm, or the total width in millimetres.
            legend: "outside" the panels, or "inside" at the top right.
            fields: other fields of the style.

        Raises:
            OptionError: the width is unknown or below 20 mm, or a field has a wrong value.

        >>> Style.paper("single").total_mm
        84.0
        >>> Style.paper(140, legend="inside").width
        258
        """
        if isinstance(columns, str) and columns not in TOTAL_MM:
            raise OptionError(f"columns must be single, double, or a width in millimetres (got {columns!r})")
        total = TOTAL_MM[columns] if isinstance(columns, str) else float(columns)
        if not 20 <= total <= 1000:  # also if it is not a number
            raise OptionError(f"the width of a figure must be from 20 to 1,000 mm (got {total:g})")
        beside = 2 if total < TOTAL_MM["double"] else 3
        sizes = {"columns": beside, "width": round(0.65 * total * POINTS_PER_MM)}
        return cls(total_mm=total, legend=legend, **(sizes | fields))

    def __post_init__(self) -> None:
        for name, scales in (
            ("scale", get_args(YScale)),
            ("x_scale", get_args(XScale)),
            ("legend", get_args(Legend)),
        ):
            if getattr(self, name) not in scales:
                raise OptionError(f"{name} must be one of {', '.join(scales)} (got {getattr(self, name)!r})")
        if self.x_constant is not None and self.x_constant <= 0:
            raise OptionError(f"x_constant must be above 0 (got {self.x_constant:g})")
        for name in ("columns", "width", "height", "probe_tokens"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise OptionError(f"{name} must be a positive number (got {size})")


class Definition(str):
    """A line that defines a quantity: its symbol, and the formula."""

    __slots__ = ()


PLAIN = Style()
"""The default style: everything decided from the data, no note."""


def finalize(chart: AnyChart, heading: str, lines: list[str], style: Style) -> AnyChart:
    """A chart with the theme, its title, and a subtitle: the lines, the probe's size, the note.

    Put finalized charts side by side with `linked`; altair's `|` and `&` refuse charts with a config of their own.
    """
    probe = f"Probe of {style.probe_tokens:,} tokens." if style.probe_tokens else ""
    *above, last = lines
    text = [*above, " ".join(part for part in (last, probe) if part), style.note]
    axes = chart.usermeta.get(AXES, "") if isinstance(chart.usermeta, dict) else ""
    formulas = list(dict.fromkeys(str(line) for line in text if isinstance(line, Definition) and line))
    told = {
        "formulas": formulas,
        "lines": [line for line in text if line and not isinstance(line, Definition)],
        AXES: axes,
    }
    below = [row for line in (*text, axes) for row in textwrap.wrap(line, _SUBTITLE)]
    title = textwrap.wrap(style.title or heading, _TITLE)
    words: dict[str, Any] = {
        "description": " ".join([*title, *below]),
        "usermeta": _embedding(title) | {"caption": _caption(title, text), WORDS: told},
    }
    if style.total_mm is not None:
        if axes:  # of all panels, which have no titles of their own
            words["title"] = alt.TitleParams(text=axes, fontSize=12, fontWeight="normal", offset=6)
        fitted: AnyChart = printed(_for_print(chart.properties(**words), style), style.total_mm)
        return fitted
    params = alt.TitleParams(text=title, subtitle=below) if below else alt.TitleParams(text=title)
    return themed(chart.properties(title=params, **words), below=isinstance(chart, alt.FacetChart))


def themed(chart: AnyChart, *, below: bool = False) -> AnyChart:
    """A chart with the theme written into its config; legends are beside it, or `below` where panels take the width."""
    config = _config()
    config["legend"] |= {"orient": "bottom"} if below else {}
    result: AnyChart = chart.configure(**config)
    return result


def _for_print(chart: AnyChart, style: Style) -> AnyChart:
    """The chart with the theme of a figure in a paper: legends below or inside, small distances."""
    config = _config()
    inside = {"orient": "top-right", "fillColor": "white", "padding": 3, "offset": 0}
    names = max(1, int((style.total_mm or 0) / 21))  # in a row of a legend below
    placed = inside if style.legend == "inside" else {"orient": "bottom", "offset": 4, "columns": names}
    config["legend"] |= {"symbolSize": 40, "titlePadding": 3, "rowPadding": 1, **placed}
    config["axis"] |= {"titlePadding": 4, "labelPadding": 2, "tickSize": 3}
    result: AnyChart = chart.configure(**(config | {"padding": 1, "point": {"size": 30}}))
    return result


def _caption(title: list[str], lines: list[str]) -> str:
    """Title and lines as sentences."""
    parts = [part.strip() for part in (" ".join(title), *lines) if part.strip()]
    return " ".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in parts)


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
        "scale": {"invalid": {"color": {"value": QUIET}}},  # of series without a layer
    }
