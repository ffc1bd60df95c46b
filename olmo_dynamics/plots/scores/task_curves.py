"""Scores of tasks during training: one panel per score, one line per task, with a dashed line at chance.

>>> import olmo_dynamics as od
>>> od.plots.task_scores(od.open_store("run.zarr").table("evaluation"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from olmo_dynamics.plots.inside.curve_panels import Panel, Rule, dashed, panel_chart, panel_grid
from olmo_dynamics.plots.table import require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.quantities import find

_SHOWN = ("accuracy", "accuracy_normalised", "bits_per_byte")
_WIDE = (300, 220)


def task_scores(
    frame: pl.DataFrame, y: str | Sequence[str] = _SHOWN, *, x: str = "step", style: Style = PLAIN
) -> AnyChart:
    """Lines of scores of the table `evaluation` against step or tokens, one panel per score and one colour per task.

    Dashed lines are the accuracy by chance, of 2, 4 or any other number of choices. Two standard errors are in the tooltip's
    table, not drawn; `score_relation` draws them.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    names = [y] if isinstance(y, str) else list(y)
    require(frame, "task", *names)
    rules = _chance(frame)
    panels = [_panel(name, rules if name.startswith("accuracy") else ()) for name in names]
    drawn = [panel_chart(frame, each, hue="task", x=x, style=style, size=_WIDE) for each in panels]
    chart = panel_grid([each for each, _ in drawn], columns=min(style.columns, 2)).resolve_scale(color="shared")
    used = [rule for panel in panels for rule in panel.rules]
    lines = [dashed(used), drawn[0][1].subtitle] if used else [drawn[0][1].subtitle]
    return finalize(chart, "Scores of tasks during training", lines, style)


def _panel(name: str, rules: tuple[Rule, ...]) -> Panel:
    quantity = find(f"evaluation/{name}")
    return Panel(field=name, quantity=quantity, title=quantity.long_name, rules=rules, legend="right")


def _chance(frame: pl.DataFrame) -> tuple[Rule, ...]:
    if "chance" not in frame.columns:
        return ()
    levels = (
        frame.filter(pl.col("chance").is_not_null())
        .group_by("chance")
        .agg(pl.col("task").unique().sort())
        .sort("chance")
    )
    return tuple(Rule(level, f"chance of {', '.join(tasks)}") for level, tasks in levels.iter_rows())
