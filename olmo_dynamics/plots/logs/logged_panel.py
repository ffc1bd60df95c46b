"""Logged metrics of a training run through time: loss, gradient norm and learning rate, beside gradients that we measured.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import per_revision
>>> store = od.open_store("run.zarr")  # doctest: +SKIP
>>> logs = od.read_logs("metrics.jsonl")  # doctest: +SKIP
>>> od.plots.training_logs(logs.table, per_revision(store, "gradients"), units=logs.units)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from olmo_dynamics.errors import OptionError, counted
from olmo_dynamics.plots.inside.curve_panels import Panel, panel_chart, panel_grid
from olmo_dynamics.plots.table import require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.quantities.declaration import Quantity

_LOGGED, _WINDOW, _PROBE = "logged, of a batch", "measured, of one window", "measured, of the whole probe"
_MEASURED = {"total_l2_norm": _WINDOW, "total_probe_l2_norm": _PROBE}
_PANELS = {"loss": "Loss", "gradient_norm": "Gradient norm", "learning_rate": "Learning rate"}


def training_logs(
    logs: pl.DataFrame,
    measured: pl.DataFrame | None = None,
    *,
    units: Mapping[str, str] | None = None,
    x: str = "step",
    style: Style = PLAIN,
) -> AnyChart:
    """Panels of the logged loss, gradient norm and learning rate, those that the table has.

    The gradient norm is that of a training batch before clipping. With `measured`, the numbers of the group `gradients` as
    `olmo_dynamics.frames.per_revision` gives them, the norms of the probe's gradient are drawn in the same panel: they are of
    other tokens and fewer, so only their course compares.

    Args:
        logs: the table of `read_logs`, of one run.
        measured: gradient norms by revision, of the same run.
        units: the units of the logged metrics, as `read_logs` gives them.
        x: `step` or `tokens`.
        style: the look.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(logs, "step", "tokens")
    held = [name for name in _PANELS if name in logs.columns and logs[name].is_not_null().any()]
    if not held:
        raise OptionError(f"the logs must have one of the columns {', '.join(_PANELS)} (got {', '.join(logs.columns)})")
    frame = logs.with_columns(revision=pl.format("step {}", "step"), series=pl.lit(_LOGGED))
    charts = []
    for name in held:
        rows = _beside(frame, measured) if name == "gradient_norm" and measured is not None else frame
        quantity = Quantity(name, "", _PANELS[name].lower(), (), "", "", unit=(units or {}).get(name, ""))
        panel = Panel(field=name, quantity=quantity, title=_PANELS[name], scale="auto", legend="bottom")
        charts.append(panel_chart(rows, panel, hue="series", x=x, style=style)[0])
    steps = frame["step"].unique().sort()
    notes = ["Gradient norms are sqrt(Σ over tensors ‖g‖²) before clipping."] if "gradient_norm" in held else []
    span = f"{counted(len(steps), 'logged step')}, step {steps[0]:,} to {steps[-1]:,}."
    return finalize(panel_grid(charts), "Logged metrics of the training", [*notes, span], style)


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
