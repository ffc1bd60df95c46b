"""Distributions over training time as nested bands of quantiles around the median.

>>> import olmo_dynamics as od
>>> store = od.open_store("run.zarr")  # doctest: +SKIP
>>> od.plots.embedding_band(store.table("embeddings.row_l2_quantile"))  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import TimeAxis, stage_borders, time_axis, value_axis
from olmo_dynamics.plots.lines import LINE, paths, with_borders
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import PARTS, Rows, drawable, inline, require
from olmo_dynamics.plots.theme import INK, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, tooltips
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Quantity

_WIDE, _PAIR, _PANEL = (600, 320), (340, 280), (165, 130)
_MEDIAN, _DARK = "median", "#08304F"
_DECAYED = "decayed"  # the column of the dashed line
_DASHED = "Dashed: the first median times Π (1 - η λ), what weight decay alone leaves."
_SHADES = {1: ("#A9CCE3",), 2: ("#CFE1F0", "#8DBBDD"), 3: ("#D6E6F2", "#A9CCE3", "#74ABD2")}
_FOUR = ("#DDEAF4", "#B5D3E8", "#83B5D9", "#4F93C5")
"""Outermost band to innermost, of one hue with the median's, by how many there are."""


def embedding_band(
    frame: pl.DataFrame, decay: pl.DataFrame | None = None, *, x: str = "step", style: Style = PLAIN
) -> AnyChart:
    """Bands of the rows' L2 norms: 5 to 95 %, 25 to 75 % and the median, the input embedding and the head side by side.

    Takes the table `embeddings.row_l2_quantile`. With `decay`, the table of `od.embedding_decay`, a dashed line shows what weight
    decay alone would have left of the first median: median Π (1 - η λ), the size of a median row that never got a gradient.

    Raises:
        OptionError: a column or a quantile is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "embedding", "quantile", "value")
    inner = frame.filter(pl.col("quantile").is_between(0.05, 0.95))
    inner = inner if decay is None else _with_decay(inner, decay)
    return _fan(inner, find("embeddings/row_l2_quantile"), "embedding", x=x, style=style)


def distribution_fan(
    frame: pl.DataFrame, *, quantity: str = "parameters/element_quantile", x: str = "step", style: Style = PLAIN
) -> AnyChart:
    """Bands of every pair of quantiles q and 1 - q around the median, one panel per tensor.

    Takes a table of quantiles of `quantity`, such as `parameters.element_quantile`. Filter it to one role, or to one
    tensor, first.

    Raises:
        OptionError: a column or a quantile is missing, or there is nothing, or too much, to draw.
    """
    level = "token_quantile" if "token_quantile" in frame.columns else "quantile"
    require(frame, level, "value")
    named = frame.rename({level: "quantile"}) if level != "quantile" else frame
    several = [
        name for name in ("role", "site", "embedding", "layer") if name in frame.columns and frame[name].n_unique() > 1
    ]
    text = [pl.format("layer {}", "layer") if name == "layer" else pl.col(name) for name in several]
    panel = pl.concat_str(text or [pl.lit("")], separator=PARTS, ignore_nulls=True).alias("panel")
    return _fan(named.with_columns(panel), find(quantity), "panel", x=x, style=style)


def _fan(frame: pl.DataFrame, quantity: Quantity, facet: str, *, x: str, style: Style) -> AnyChart:
    overlay = [_DECAYED] if _DECAYED in frame.columns else []
    rows = _by_panel(drawable(frame, "value", x=x, also=[facet, *overlay]), facet)
    count = rows.frame["panel"].n_unique()
    width, height = _WIDE if count == 1 else _PAIR if count == 2 else _PANEL
    width, height = style.width or width, style.height or height
    chart = _bands(rows, quantity, time_axis(rows.frame, rows.x, width=width, style=style), panels=count > 2)
    chart = chart.properties(width=width, height=height)
    whole = (
        small_multiples(chart, rows, "panel", columns=_columns(rows, style), free=count == 2) if count > 1 else chart
    )
    title = heading(rows.frame, quantity, " during training").replace("Quantile", "Distribution", 1)
    lines = [definition(quantity), f"{rows.subtitle} {_DASHED}" if overlay else rows.subtitle]
    return finalize(whole, title, lines, style)


def _with_decay(frame: pl.DataFrame, decay: pl.DataFrame) -> pl.DataFrame:
    """The rows with `decayed`: the median of each line's first revision that `decay` has, as decay alone changes it."""
    require(decay, "revision", "embedding", "predicted", "step")
    keys, line = ["revision", "embedding"], [LINE] if LINE in decay.columns else []
    medians = frame.filter(pl.col("quantile") == 0.5).select(*keys, pl.col("value").alias("median"))
    joined = decay.sort("step").join(medians, on=keys, how="inner", maintain_order="left")
    first = [pl.col(name).first().over(["embedding", *line]) for name in ("median", "predicted")]
    decayed = (first[0] * pl.col("predicted") / first[1]).round_sig_figs(6).alias(_DECAYED)
    return frame.join(joined.select(*keys, decayed), on=keys, how="left", maintain_order="left")


def _columns(rows: Rows, style: Style) -> int:
    """The number of panels in a row: of several trainings, those of one facet."""
    firsts = rows.frame["panel"].unique().str.split(PARTS).list.first()
    most = int(firsts.value_counts()["count"].to_numpy().max())
    return most if 1 < most <= style.columns else style.columns


def _by_panel(rows: Rows, facet: str) -> Rows:
    """The rows with their panel: the facet's value and, of several lines of training, the line with those it continues."""
    if rows.frame.select("revision", facet, "quantile").is_duplicated().any():
        raise OptionError("bands need one value per revision, panel and quantile (got several); filter the table")
    whole = paths(rows.frame, rows.x).drop(LINE) if rows.has_several(LINE) else rows.frame
    whole = with_borders(whole, rows.x) if rows.counts_through else whole
    several = "path" in whole.columns and whole["path"].n_unique() > 1
    parts = [pl.col(facet).cast(pl.String), *([pl.col("path")] if several else [])]
    panel = pl.concat_str(parts, separator=PARTS, ignore_nulls=True).str.strip_chars(PARTS)
    return Rows(whole.with_columns(panel.alias("panel")), rows.left_out, rows.x)


def _bands(rows: Rows, quantity: Quantity, time: TimeAxis, *, panels: bool) -> alt.LayerChart:
    """Areas from quantile q to quantile 1 - q, the widest at the back, and the median's line on top."""
    nested = _nested(rows.frame)
    widest_first = [band for band in nested["band"].unique(maintain_order=True) if band != _MEDIAN]
    shades = alt.Scale(domain=widest_first, range=list(_SHADES.get(len(widest_first), _FOUR)))
    tooltip = tooltips(nested, value=f"{axis_title(quantity)}, or its lower end", upper="upper end")
    y = value_axis(rows.frame, "value", quantity).channel().title(axis_title(quantity, short=panels))
    data, x = inline(nested), time.channel(seen=zoomed(time.field))
    base = alt.Chart(data).encode(x=x, y=y, tooltip=tooltip)
    color = alt.Color("band", type="nominal", scale=shades, sort=widest_first, title="values within")
    alone = nested[time.field].n_unique() == 1  # an area needs two ends; a single revision is a bar
    spread = (base.mark_bar(size=24) if alone else base.mark_area()).encode(y2="upper", color=color)
    areas = [spread.transform_filter(alt.datum.band == band) for band in widest_first]
    median = base.transform_filter(alt.datum.band == _MEDIAN)
    line = median.mark_line(color=_DARK).add_params(zoom())
    marks = [*areas, line, median.mark_point(filled=True, size=12, color=_DARK), *_decay_line(median, nested)]
    return alt.LayerChart(layer=[*marks, *stage_borders(nested, data, x)])


def _decay_line(median: alt.Chart, frame: pl.DataFrame) -> list[alt.Chart]:
    """The dashed line of what weight decay alone leaves, if the rows have it."""
    if _DECAYED not in frame.columns:
        return []
    y = median.encoding.y.copy()
    y.shorthand = _DECAYED
    known = median.transform_filter(f"isValid(datum.{_DECAYED})")
    return [known.mark_line(strokeDash=[5, 4], color=INK, strokeWidth=1.4).encode(y=y)]


def _nested(frame: pl.DataFrame) -> pl.DataFrame:
    """Quantiles q and 1 - q paired as `value` and `upper`, the widest band first and the median last."""
    level = pl.col("quantile")
    labels = [name for name in frame.columns if name not in ("quantile", "value")]
    above = frame.filter(level > 0.5).with_columns((1 - level).round(6).alias("quantile")).rename({"value": "upper"})
    pairs = frame.filter(level < 0.5).join(above, on=[*labels, "quantile"], nulls_equal=True)
    median = frame.filter(level == 0.5).with_columns(pl.lit(_MEDIAN).alias("band"))
    if pairs.is_empty() or median.is_empty():
        found = ", ".join(f"{value:g}" for value in sorted(frame["quantile"].unique()))
        raise OptionError(f"bands need the median and pairs of quantiles q and 1 - q (got {found}); keep those rows")
    words = pl.format("{} to {} %", (100 * level).round(1), (100 * (1 - level)).round(1))
    named = pairs.with_columns(words.str.replace_all(".0 ", " ", literal=True).alias("band"))
    return pl.concat([named.sort("quantile", maintain_order=True), median], how="diagonal").drop("quantile")
