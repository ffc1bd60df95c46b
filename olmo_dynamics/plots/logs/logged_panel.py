"""Logged metrics of a training run through time: loss, gradient norm and learning rate, beside gradients that we measured.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import per_revision
>>> store = od.open_store("run.zarr")  # doctest: +SKIP
>>> logs = od.read_logs("metrics.jsonl")  # doctest: +SKIP
>>> od.plots.training_logs(logs.table, per_revision(store, "gradients"), units=logs.units)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError, counted
from olmo_dynamics.frames.rules.spike_rule import OLMO_CORE, PAPER, SpikeRule, spike_score, spikes
from olmo_dynamics.plots.inside.curve_panels import Panel, panel_chart, panel_grid
from olmo_dynamics.plots.table import inline, require
from olmo_dynamics.plots.theme import INK, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.quantities.declaration import Quantity

_LOGGED, _WINDOW, _PROBE = "logged, of a batch", "measured, of one window", "measured, of the whole probe"
_MEASURED = {"total_l2_norm": _WINDOW, "total_probe_l2_norm": _PROBE}
_PANELS = {"loss": "Loss", "gradient_norm": "Gradient norm", "learning_rate": "Learning rate"}
_SCORED = ("loss", "gradient_norm")
_AUTO = "auto"
_RULES = {each.name: each for each in (PAPER, OLMO_CORE)}


def training_logs(
    logs: pl.DataFrame,
    measured: pl.DataFrame | None = None,
    *,
    units: Mapping[str, str] | None = None,
    spike_rule: Literal["auto", "OLMo 2", "OLMo-core"] | None = "auto",
    x: str = "step",
    style: Style = PLAIN,
) -> AnyChart:
    """Panels of the logged loss, gradient norm and learning rate, those that the table has.

    The gradient norm is that of a training batch before clipping. With `measured`, the numbers of the group `gradients` as
    `olmo_dynamics.frames.per_revision` gives them, the norms of the probe's gradient are drawn in the same panel: they are of
    other tokens and fewer, so only their course compares.

    Rings mark spikes of the loss and of the gradient norm, and the subtitle gives their share: by OLMo 2's rule, values at least
    7 standard deviations from the mean of the 1,000 before (arXiv:2501.00656, section 3.2), or by that of OLMo-core's monitor,
    which compares with 128 values. "auto" is the first of both whose window the logs fill.

    Args:
        logs: the table of `read_logs`, of one run.
        measured: gradient norms by revision, of the same run.
        units: the units of the logged metrics, as `read_logs` gives them.
        spike_rule: "auto", "OLMo 2", "OLMo-core", or None to mark no spikes.
        x: `step` or `tokens`.
        style: the look.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(logs, "step", "tokens")
    if spike_rule not in (None, _AUTO, *_RULES):
        raise OptionError(f"spike_rule must be auto, {', '.join(_RULES)} or None (got {spike_rule!r})")
    held = [name for name in _PANELS if name in logs.columns and logs[name].is_not_null().any()]
    if not held:
        raise OptionError(f"the logs must have one of the columns {', '.join(_PANELS)} (got {', '.join(logs.columns)})")
    frame = logs.with_columns(revision=pl.format("step {}", "step"), series=pl.lit(_LOGGED))
    rule = next((each for each in _RULES.values() if frame.height > each.window), None) if spike_rule == _AUTO else None
    rule = _RULES.get(spike_rule or "", rule)
    charts, scores = [], []
    for name in held:
        rows = _beside(frame, measured) if name == "gradient_norm" and measured is not None else frame
        quantity = Quantity(name, "", _PANELS[name].lower(), (), "", "", unit=(units or {}).get(name, ""))
        panel = Panel(field=name, quantity=quantity, title=_PANELS[name], scale="auto", legend="bottom")
        chart, drawn = panel_chart(rows, panel, hue="series", x=x, style=style)
        if rule is not None and name in _SCORED:
            places, words = _spikes(frame, name, rule)
            scores.append(f"{_PANELS[name].lower()} {words}")
            if places.height:
                chart += _rings(chart, places, drawn.x)
        charts.append(chart)
    steps = frame["step"].unique().sort()
    notes = ["Gradient norms are sqrt(Σ over tensors ‖g‖²) before clipping."] if "gradient_norm" in held else []
    notes += [f"{_rule_words(rule)}: {', '.join(scores)}."] if rule and scores else []
    span = f"{counted(len(steps), 'logged step')}, step {steps[0]:,} to {steps[-1]:,}."
    return finalize(panel_grid(charts), "Logged metrics of the training", [*notes, span], style)


def _spikes(frame: pl.DataFrame, name: str, rule: SpikeRule) -> tuple[pl.DataFrame, str]:
    """The rows at which a curve spikes, and its spike score in words."""
    known = frame.filter(pl.col(name).cast(pl.Float64).is_finite()).unique("step", keep="last").sort("step")
    values = known[name].cast(pl.Float64).to_numpy()
    if len(values) <= rule.window:
        return known.clear(), f"not scored ({len(values):,} values, and it needs more than {rule.window:,})"
    at = spikes(values, rule)
    return known.filter(pl.Series(at)), f"{100 * spike_score(values, rule):.2g} % ({counted(int(at.sum()), 'spike')})"


def _rings(chart: alt.LayerChart, places: pl.DataFrame, x: str) -> alt.Chart:
    """Rings around spikes, on the axes of the panel's first layer."""
    first = chart.layer[0].encoding
    kept = places.select(list(dict.fromkeys([x, "step", first.y.shorthand])))
    marks: alt.Chart = alt.Chart(inline(kept)).mark_point(filled=False, size=70, strokeWidth=1.4, color=INK)
    return marks.encode(x=first.x.copy(), y=first.y.copy())


def _rule_words(rule: SpikeRule) -> str:
    sides = "above" if rule.upwards else "from"
    return (
        f"Spikes (rings), {rule.name}'s rule, {rule.sigmas:g} σ {sides} the mean of the {rule.window:,} values before"
    )


def _beside(logs: pl.DataFrame, measured: pl.DataFrame) -> pl.DataFrame:
    """The logged gradient norms and those measured, one series each."""
    require(measured, "revision", "step", "tokens", *_MEASURED)
    keys = [name for name in ("step", "tokens", "position_step", "position_tokens") if name in measured.columns]
    parts = [
        measured.select("revision", *keys, pl.lit(words).alias("series"), gradient_norm=pl.col(name))
        for name, words in _MEASURED.items()
    ]
    own = [name for name in keys if name in logs.columns]
    return pl.concat([logs.select("revision", *own, "series", "gradient_norm"), *parts], how="diagonal_relaxed")
