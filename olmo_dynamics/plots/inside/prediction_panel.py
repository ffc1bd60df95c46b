"""The head's predictions through training: their entropy, their confidence, and the size of the logits.

>>> import olmo_dynamics as od
>>> od.plots.prediction_panel(od.open_store("run.zarr").table("logits"), vocabulary=100_278)  # doctest: +SKIP
"""

from __future__ import annotations

import math

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.inside.curve_panels import Panel, Rule, dashed, panel_chart, panel_grid
from olmo_dynamics.plots.table import require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.quantities import find

_TITLES = {
    "entropy": "Entropy of the predictions",
    "top_probability": "Probability of the likeliest token",
    "lse_mean": "Log-sum-exp of the logits",
    "logit_centred_rms": "Spread of the logits over the vocabulary",
}


def prediction_panel(
    frame: pl.DataFrame, *, vocabulary: int | None = None, x: str = "step", style: Style = PLAIN
) -> AnyChart:
    """Curves of the entropy of the predictions, the likeliest token's probability, ln Σ exp z, and the spread of the logits.

    Takes the table `logits`. Of `vocabulary` tokens, a model that knows nothing has an entropy of ln V and a likeliest token
    of 1 / V; a head of zeros has a log-sum-exp of ln V. These are drawn dashed. Quantities without a value are left out.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, *_TITLES)
    drawn, panels = [], _panels(frame, vocabulary)
    for panel in panels:
        drawn.append(panel_chart(frame, panel, hue="line", x=x, style=style))
    if not drawn:
        raise OptionError(f"the table must hold values of {', '.join(_TITLES)} to draw (got none)")
    formulas = (
        "H(p) = mean over tokens of -Σ p ln p; ln Z = ln Σ exp z; RMS(z − mean z) = sqrt(mean over tokens of var(z))."
    )
    said = dashed(rule for panel in panels for rule in panel.rules)
    whole = panel_grid([chart for chart, _ in drawn])
    return finalize(
        whole, "Predictions of the head during training", [formulas, f"{drawn[0][1].subtitle} {said}".strip()], style
    )


def _panels(frame: pl.DataFrame, vocabulary: int | None) -> list[Panel]:
    guess = (Rule(math.log(vocabulary), f"ln V of {vocabulary:,} tokens"),) if vocabulary else ()
    rules = {"entropy": guess, "lse_mean": guess}
    scales = {"logit_centred_rms": "auto", "top_probability": "linear"}
    return [
        Panel(field=name, quantity=find(f"logits/{name}"), title=title, rules=rules.get(name, ()),
              scale="auto" if scales.get(name) == "auto" else "linear", from_zero=name in ("entropy", "top_probability"))
        for name, title in _TITLES.items()
        if frame[name].fill_null(float("nan")).is_finite().any()
    ]  # fmt: skip
