"""What a reader can do to a picture: single out a series, zoom along time, brush.

Every chart names its selections the same way (`picked_layer`, `zoom`, `brush`), which is what lets `linked` put charts side
by side so that picking a layer in one picks it in all.

    >>> pick("layer").name
    'picked_layer'
"""

from __future__ import annotations

import json
from typing import Any, Literal

import altair as alt


def pick(column: str, *, panels: bool = False) -> alt.Parameter:
    """The selection of values of a column, by a click on a mark or in the legend, shift for several; a double click clears.

    Among panels by the legend alone, and one value at a time: each panel keeps a selection of its own there, which clicks on
    marks would leave at odds with each other. A click on the legend's title clears it.
    """
    if panels:
        return alt.selection_point(name=f"picked_{column}", fields=[column], bind="legend", toggle=False)
    return alt.selection_point(name=f"picked_{column}", fields=[column], bind="legend", on="click", clear="dblclick")


def zoom() -> alt.Parameter:
    """Pans and zooms along x; the wheel only with ctrl, alt or cmd held, so that a page still scrolls."""
    wheel = "wheel![event.ctrlKey || event.altKey || event.metaKey]"
    return alt.selection_interval(name="zoom", bind="scales", encodings=["x"], zoom=wheel)


def zoomed(field: str) -> str:
    """Vega's expression for the interval of a field that `zoom` shows; undefined until a reader zooms."""
    return f"zoom[{json.dumps(field)}]"


def brush(*encodings: Literal["x", "y"]) -> alt.Parameter:
    """A rectangle drawn over a picture that says what another picture shows; a double click takes it away."""
    return alt.selection_interval(name="brush", encodings=list(encodings), zoom=False, clear="dblclick")


def faded(chosen: alt.Parameter, *, full: float = 0.95, faint: float = 0.1) -> Any:
    """The opacity of marks: full where chosen or while nothing is, faint elsewhere."""
    return alt.when(chosen).then(alt.value(full)).otherwise(alt.value(faint))
