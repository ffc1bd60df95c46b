"""Selections: a reader can highlight a series, zoom along time, and brush.

Every chart names its selections the same way (`picked_layer`, `zoom`, `brush`), so in charts put side by side by `linked`,
a layer selected in one is selected in all.

    >>> pick("layer").name
    'picked_layer'
"""

from __future__ import annotations

import json
from typing import Any, Literal

import altair as alt


def pick(column: str, *, panels: bool = False) -> alt.Parameter:
    """A selection of values of a column by a click on a mark or in the legend, several with shift; a double click clears.

    A layer, whose legend is a bar, is selected by its marks alone. Of other columns in panels, only the legend selects, one
    value at a time, and a click on its title clears: each panel has a selection of its own there, and clicks on marks would make
    them differ.
    """
    if column == "layer":
        return alt.selection_point(name=f"picked_{column}", fields=[column], on="click", clear="dblclick")
    if panels:
        return alt.selection_point(name=f"picked_{column}", fields=[column], bind="legend", toggle=False)
    return alt.selection_point(name=f"picked_{column}", fields=[column], bind="legend", on="click", clear="dblclick")


def zoom() -> alt.Parameter:
    """Panning and zooming along x; the wheel zooms only with ctrl, alt or cmd held, so that a page still scrolls."""
    wheel = "wheel![event.ctrlKey || event.altKey || event.metaKey]"
    return alt.selection_interval(name="zoom", bind="scales", encodings=["x"], zoom=wheel)


def zoomed(field: str) -> str:
    """Vega's expression for the interval of a field that `zoom` shows, undefined until a reader zooms."""
    return f"zoom[{json.dumps(field)}]"


def brush(*encodings: Literal["x", "y"]) -> alt.Parameter:
    """A rectangle drawn over one picture that filters another; a double click removes it."""
    return alt.selection_interval(name="brush", encodings=list(encodings), zoom=False, clear="dblclick")


def faded(chosen: alt.Parameter, *, full: float = 0.95, faint: float = 0.1) -> Any:
    """The opacity of marks: full if they are chosen or nothing is, faint otherwise."""
    return alt.when(chosen).then(alt.value(full)).otherwise(alt.value(faint))
