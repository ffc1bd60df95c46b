"""Charts at a stated total width in print.

A PDF's pixel is a point, 1/72 inch, so type and lines are scaled to print, and the panels are resized until the whole
picture, with axes and legends, is as wide as stated.

    >>> round(TOTAL_MM["single"] * POINTS_PER_MM)
    238
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import altair as alt

from olmo_dynamics.errors import OptionError

TOTAL_MM = {"single": 84.0, "double": 174.0}
"""Total widths of a figure in millimetres: of one column of a page, and of both."""

POINTS_PER_MM = 72 / 25.4

SCALE = 0.65
"""The size of type and lines in print over that on the screen: 11 pixels become 7.2 points."""

_TYPE = re.compile(r"(?:^|[a-z])[fF]ontSize$|^strokeWidth$|^symbolStrokeWidth$")
_SIZES = ("width", "height", "gradientLength", "x.value", "y.value")
_CLOSE, _TURNS = 0.5, 6  # points; resizings at most
_LEAST, _FLAT = 50, 0.55  # points of a panel's width; its least height over its width


def printed(chart: Any, total_mm: float) -> Any:
    """A copy of the chart with type for print, whose whole width is `total_mm` millimetres.

    Panels keep their proportion, but none is higher than wide, or flatter than 0.55 of its width. They are as large as fits,
    and white space on the right fills what is left.

    Raises:
        OptionError: the panels, axes and legends do not fit into the width.
    """
    copy = chart.copy(deep=True)
    for place, key in _found(copy, lambda key: bool(_TYPE.search(key))):
        place[key] = place[key] * SCALE
    for place, key in _found(copy, lambda key: key == "size"):
        place[key] = place[key] * SCALE**2  # an area
    sizes = [(place, key, place[key]) for place, key in _found(copy, lambda key: key in _SIZES)]
    least = _LEAST / min((size for _, key, size in sizes if key == "width"), default=_LEAST)
    target = total_mm * POINTS_PER_MM

    def whole(ratio: float) -> float:
        for place, key, size in sizes:
            place[key] = round(size * ratio, 2)
        for place in (place for place, key, _ in sizes if key == "height" and isinstance(place.get("width"), float)):
            place["height"] = round(min(max(place["height"], _FLAT * place["width"]), place["width"]), 2)
        return _width(copy)

    ratio = _largest(whole, target, least)
    if ratio is None:
        raise OptionError(
            f"the figure does not fit into {total_mm:g} mm; give it fewer columns, a legend inside, or more width"
        )
    left = target - whole(ratio)
    copy.config.padding = {"left": 1, "top": 1, "bottom": 1, "right": 1 + round(max(left, 0), 2)}
    return copy


def _largest(whole: Callable[[float], float], target: float, least: float) -> float | None:
    """The largest ratio found whose picture is at most as wide as the target; none if that of the least ratio is wider."""
    low, width = least, whole(least)
    if width > target + _CLOSE:
        return None
    high, over = least, width
    while over <= target:  # panels grow until the picture is too wide
        low, width, high = high, over, 2 * high
        over = whole(high)
    for _ in range(_TURNS):
        if target - width <= _CLOSE:
            break
        between = low + (high - low) * min(max((target - width) / (over - width), 0.1), 0.9)
        found = whole(between)
        low, width, high, over = (between, found, high, over) if found <= target else (low, width, between, found)
    return low


def _found(chart: Any, wanted: Callable[[str], bool], channel: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Every number of the chart that `wanted` chooses by its key, as the mapping that holds it and its key.

    The key of a constant position, such as that of a name beside the panel, is `x.value` or `y.value`.
    """
    inside = chart._kwds if isinstance(chart, alt.SchemaBase) else chart
    if isinstance(inside, list | tuple):
        for each in inside:
            yield from _found(each, wanted)
    elif isinstance(inside, dict):
        for key, value in list(inside.items()):
            if isinstance(value, int | float) and not isinstance(value, bool):
                if wanted(f"{channel}.{key}" if channel in ("x", "y") else key):
                    yield inside, key
            elif key not in ("data", "datasets"):
                yield from _found(value, wanted, key)


def _width(chart: alt.TopLevelMixin) -> float:
    """The whole picture's width in points, as it is drawn."""
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    svg = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict()), vl_version=version)
    width = re.search(r'width="([0-9.]+)"', svg)
    assert width is not None
    return float(width.group(1))
