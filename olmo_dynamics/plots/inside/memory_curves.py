"""Memory of a batch: the loss on it beyond a held-out twin's, before the batch and after it.

>>> import olmo_dynamics as od
>>> od.plots.memorisation(od.memorisation(store, batch="step40", twin="heldout", step=40))  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.table import inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize

_SIZE = (560, 300)
_TITLE = "Memory of a batch"
_WORDS = (
    "Change of (loss on the batch - loss on its twin) since the last revision before the batch, in nats per token; below 0 is "
    "memory. Bars: two standard errors over pairs of sequences."
)


def memorisation(frame: pl.DataFrame, *, style: Style = PLAIN) -> AnyChart:
    """Lines of the gain of a batch over its twin against the steps since the batch, one line per batch.

    Takes the table that `od.memorisation` gives, or several of them stacked.

    Raises:
        OptionError: a column is missing, or there is nothing to draw.
    """
    require(frame, "batch_step", "offset", "gain", "gain_se", "line")
    rows = frame.filter(pl.col("gain").is_finite()).with_columns(
        (pl.col("gain") - 2 * pl.col("gain_se").fill_nan(0)).alias("low"),
        (pl.col("gain") + 2 * pl.col("gain_se").fill_nan(0)).alias("high"),
        pl.format("{} step {}", "line", "batch_step").alias("batch"),
    )
    if rows.is_empty():
        raise OptionError("the table must hold values of 'gain' to draw (got none)")
    base = alt.Chart(inline(rows)).encode(
        x=alt.X(
            "offset", type="quantitative", title="steps since the batch", scale=alt.Scale(type="symlog", constant=1)
        ),
        color=alt.Color(
            "batch", type="nominal", title="batch", sort=rows["batch"].unique(maintain_order=True).to_list()
        ),
    )
    gain = alt.Y("gain", type="quantitative", title="gain over the twin (nat/token)")
    tips = [
        alt.Tooltip(name, type="nominal" if name == "batch" else "quantitative")
        for name in ("batch", "offset", "batch_loss", "twin_loss", "gain", "gain_se")
        if name in rows.columns
    ]
    zero = (
        alt.Chart(alt.InlineData([{"gain": 0}]))
        .mark_rule(strokeDash=[4, 3], color="#888")
        .encode(y=alt.Y("gain", type="quantitative"))
    )
    bars = base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("low", type="quantitative"), y2="high")
    layers = [
        zero,
        bars,
        base.mark_line().encode(y=gain),
        base.mark_point(filled=True, size=30).encode(y=gain, tooltip=tips),
    ]
    chart = alt.LayerChart(layer=layers).properties(width=style.width or _SIZE[0], height=style.height or _SIZE[1])
    return finalize(chart, _TITLE, [_WORDS], style)
