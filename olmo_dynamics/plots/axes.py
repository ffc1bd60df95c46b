"""Axes: time along x, a quantity along y.

Time runs on a symmetric-log axis. It behaves as a logarithm far from zero and still has a place for step 0. Ticks are at 0
and at powers of ten.

    >>> import polars as pl
    >>> time_axis(pl.DataFrame({"step": [0, 10, 100, 1000]}), "step", width=600).ticks
    (0.0, 10.0, 100.0, 1000.0)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.lines import BORDER, BORDER_NAME
from olmo_dynamics.plots.theme import PLAIN, QUIET, Style, YScale
from olmo_dynamics.plots.titles import X_TITLES, axis_title
from olmo_dynamics.quantities.declaration import Quantity

Array = NDArray[np.float64]

_LINEAR_BELOW = 20.0  # a time axis whose end is less than this many times its start needs no logarithm
_LOG_FROM = 20.0  # a value axis turns logarithmic above this ratio of largest to smallest
EDGE = 5  # pixels between an axis' ends and the first and last mark, which would otherwise be cut in half
_LEVELS, _LEVEL_PIXELS = 5, 13  # of the names of borders, and the height of one
_TICK_PIXELS = 38  # width that one tick label of the time axis takes


@dataclass(frozen=True, slots=True)
class TimeScale:
    """The scale of a time axis: linear, logarithmic, or linear below `constant` and logarithmic above."""

    kind: Literal["linear", "log", "symlog"] = "linear"
    constant: float = 1.0

    @property
    def words(self) -> dict[str, Any]:
        """The scale's type, as altair's Scale takes it."""
        more: dict[str, Any] = {"constant": self.constant} if self.kind == "symlog" else {"zero": False}
        return {"type": self.kind, **({} if self.kind == "log" else more)}

    def place(self, values: Array) -> Array:
        """Positions of values on the axis, in its own unit."""
        if self.kind == "log":
            return np.log(values)
        return np.sign(values) * np.log1p(np.abs(values) / self.constant) if self.kind == "symlog" else values

    def unplace(self, places: Array) -> Array:
        """Values at positions on the axis; the inverse of `place`."""
        if self.kind == "log":
            return np.exp(places)
        return np.sign(places) * np.expm1(np.abs(places)) * self.constant if self.kind == "symlog" else places


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """The axis of step or tokens along x: its scale and its ticks."""

    field: str  # step or tokens, of one stage or counted through all
    scale: TimeScale
    ticks: tuple[float, ...]  # labelled
    minor: tuple[float, ...]  # without a label until a reader zooms in

    def channel(self, field: str = "", *, seen: str = "", domain: Any = alt.Undefined) -> alt.X:
        """The x encoding of `field`, or of the axis' own field if none is given.

        `seen` is Vega's expression for the interval that a selection shows. Minor ticks are labelled where it is short.
        """
        scale = alt.Scale(**self.scale.words, nice=False, domain=domain, padding=alt.Undefined if field else EDGE)
        title = X_TITLES[self.field]
        return alt.X(field or self.field, type="quantitative", title=title, scale=scale, axis=self._axis(seen))

    def _axis(self, seen: str) -> alt.Axis:
        words = short_number("datum.value")
        if not self.ticks:
            return alt.Axis(labelExpr=words, labelOverlap="greedy", tickCount=5, grid=False)
        major = f"indexof({json.dumps(self.ticks)}, datum.value) >= 0"
        near = f" || isArray({seen}) && {self._near(seen)}" if seen else ""
        return alt.Axis(
            values=[*reversed(self.ticks), *self.minor],  # labels that overlap give way to the last place
            labelExpr=f"{major}{near} ? {words} : ''",
            labelOverlap="greedy",
            tickSize={"condition": {"test": major, "value": 6}, "value": 3},
            grid=False,
        )

    def _near(self, seen: str) -> str:
        """Vega's expression for an interval so short that minor ticks can be labelled."""
        if self.scale.kind == "linear":
            return f"{seen}[1] - {seen}[0] < {(self.ticks[-1] - self.ticks[0]) / 4:g}"
        return f"{seen}[1] < 50 * max({seen}[0], {self.scale.constant:g})"


def time_axis(frame: pl.DataFrame, x: str, *, width: int, style: Style = PLAIN) -> TimeAxis:
    """The time axis for a column of steps or tokens, in a picture that is `width` pixels wide; the last place has a label.

    Raises:
        OptionError: a logarithmic scale is asked for, and a value is 0.
    """
    values = _places(frame, x)
    scale = time_scale(frame, x, style)
    if scale.kind == "linear":
        return TimeAxis(x, scale, *_even_ticks(values[0], values[-1], width))
    last, constant = values[-1], scale.constant
    if len(values) == 1:
        return TimeAxis(x, scale, (last,), ())
    powers = range(round(math.log10(constant)), math.floor(math.log10(last)) + 1) if last > 0 else range(0)
    decades = [10.0**power for power in powers]
    zero = [0.0] if values[0] == 0 else []
    pixels = width / math.log1p(last / constant) if last > 0 else 0.0
    ticks = [*zero, *_spaced(decades, constant, pixels, bool(zero))] if decades else zero
    ticks = _with_last(ticks, last, lambda tick: pixels * math.log1p(tick / constant)) if decades else ticks
    if sum(tick >= values[0] for tick in ticks) < 2:  # too short a range for a power of ten
        return TimeAxis(x, scale, *_even_ticks(values[0], last, width))
    digits = range(1, 10) if width >= 300 else (1, 3)
    minor = [decade * digit for decade in decades for digit in digits if decade * digit not in ticks]
    return TimeAxis(x, scale, tuple(ticks), tuple(value for value in minor if value <= last))


def time_scale(frame: pl.DataFrame, x: str, style: Style = PLAIN) -> TimeScale:
    """The scale that suits the steps or tokens in a table, unless the style names one.

    Raises:
        OptionError: a logarithmic scale is asked for, and a value is 0.
    """
    values = _places(frame, x)
    positive = [value for value in values if value > 0]
    if style.x_scale == "log" and len(positive) < len(values):
        raise OptionError(f"x_scale='log' needs values above 0; {x} begins at {values[0]:g}; use x_scale='symlog'")
    wide = len(values) > 2 and positive[-1] >= _LINEAR_BELOW * positive[0]
    kind = ("symlog" if wide else "linear") if style.x_scale == "auto" else style.x_scale
    lowest = 10.0 ** math.floor(math.log10(positive[0])) if positive else 1.0
    return TimeScale(kind, 1.0 if kind == "linear" else style.x_constant or lowest)


def stage_borders(frame: pl.DataFrame, data: alt.InlineData, x: alt.X) -> list[alt.Chart]:
    """A dashed line where each later stage begins, named at its top, on the axis of the channel `x`."""
    if BORDER not in frame.columns:
        return []
    at = x.copy()
    at.shorthand = BORDER
    begun = alt.Chart(data).transform_filter(f"isValid(datum.{BORDER})")
    base = begun.transform_aggregate(groupby=[BORDER, BORDER_NAME]).encode(x=at)
    layers = [base.mark_rule(color=QUIET, strokeDash=[2, 3])]
    text: dict[str, Any] = {"align": "right", "baseline": "top", "dx": -4, "dy": 2, "fontSize": 11}
    places = frame[BORDER].drop_nulls().unique().sort().to_list()
    for level in range(min(_LEVELS, len(places))):  # names of near borders stand one below another
        here = base.transform_filter(f"indexof({json.dumps(places[level::_LEVELS])}, datum.{BORDER}) >= 0")
        named = here.encode(y=alt.value(_LEVEL_PIXELS * level), text=alt.Text(BORDER_NAME, type="nominal"))
        layers.append(named.mark_text(**text, stroke="white", strokeWidth=4, strokeJoin="round"))
        layers.append(named.mark_text(**text, color=QUIET))
    return layers


def _places(frame: pl.DataFrame, x: str) -> list[float]:
    return sorted(float(value) for value in frame[x].unique() if value is not None)


def _with_last(ticks: list[float], last: float, place: Callable[[float], float]) -> list[float]:
    """The ticks and the last place, without those whose labels would touch its own."""
    return [*(tick for tick in ticks if place(last) - place(tick) >= _TICK_PIXELS), last]


def _even_ticks(low: float, high: float, width: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Ticks of a linear axis: multiples of 1, 2 or 5 times a power of ten and the last place; and finer ones."""
    if high <= low:
        return (), ()
    least = (high - low) * 1.6 * _TICK_PIXELS / width
    power = 10.0 ** math.floor(math.log10(least))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least)
    places = [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    ticks = _with_last(places, high, lambda tick: tick * width / (high - low))
    finer = [step / 5 * count for count in range(math.ceil(5 * low / step), math.floor(5 * high / step) + 1)]
    return tuple(ticks), tuple(tick for tick in finer if tick not in ticks)


def _spaced(decades: list[float], constant: float, pixels: float, zero: bool) -> list[float]:
    """Every n-th decade, with n as small as keeps the labels clear of each other and of the zero.

    `pixels` is the length of a factor e where the axis is logarithmic.
    """
    kept = decades[::-1][:: math.ceil(_TICK_PIXELS / (pixels * math.log(10)))][::-1]
    return [decade for decade in kept if not zero or pixels * math.log1p(decade / constant) >= _TICK_PIXELS / 2]


@dataclass(frozen=True, slots=True)
class ValueAxis:
    """The axis of a quantity along y."""

    field: str
    title: str
    log: bool
    low: float
    high: float
    ticks: tuple[float, ...]  # empty on a linear axis, where Vega chooses them
    crowded: bool  # in a small panel

    def channel(self, *, domain: tuple[float, float] | None = None) -> alt.Y:
        """The y encoding; `domain` fixes the axis' ends."""
        axis = alt.Axis(format=number_format(self.high), tickCount=4 if self.crowded else 6, labelOverlap="greedy",
                        values=list(self.ticks) or alt.Undefined)  # fmt: skip
        kind: dict[str, Any] = {"type": "log", "nice": False} if self.log else {"type": "linear", "zero": False}
        ends = {"padding": EDGE} if domain is None else {"domain": list(domain), "nice": False}
        return alt.Y(self.field, type="quantitative", title=self.title, scale=alt.Scale(**{**kind, **ends}), axis=axis)


def value_axis(
    frame: pl.DataFrame, field: str, quantity: Quantity, *, scale: YScale = "auto", panels: str = ""
) -> ValueAxis:
    """The axis of a quantity, logarithmic if the values are positive and span more than a factor of 20.

    `panels` is the column that splits the picture, if there is one: the median panel's span counts then, and the title is
    short.

    Raises:
        OptionError: a logarithmic scale is asked for, and the values are not positive.
    """
    spans = [span(part, field) for part in (frame.partition_by(panels) if panels else [frame])]
    low, high = min(low for low, _ in spans), max(high for _, high in spans)
    ratios = sorted(top / bottom for bottom, top in spans) if low > 0 else [0.0]
    log = is_log(field, scale, low, ratios[len(ratios) // 2], enough=_LOG_FROM)
    ticks = _log_ticks(low, high, ratios[0]) if log else ()
    return ValueAxis(field, axis_title(quantity, short=bool(panels)), log, low, high, ticks, bool(panels))


def is_log(field: str, scale: YScale, low: float, ratio: float, *, enough: float) -> bool:
    """True if an axis or colour is logarithmic: if asked for, or if values are positive and their ratio exceeds `enough`."""
    if scale == "log" and low <= 0:
        raise OptionError(f"scale='log' needs positive values; {field!r} goes down to {low:g}; use scale='linear'")
    return scale == "log" or (scale == "auto" and low > 0 and ratio > enough)


def span(frame: pl.DataFrame, field: str) -> tuple[float, float]:
    """The least and the greatest value of a column."""
    values = frame[field].to_numpy()
    return float(values.min()), float(values.max())


def number_format(high: float) -> str:
    """The d3 format of an axis or legend that goes up to `high`."""
    return "~s" if high >= 10_000 else ".4~g"


def short_number(value: str) -> str:
    """Vega's expression for 1000 as 1k and 1e9 as 1B."""
    return f"replace(format({value}, '.3~s'), 'G', 'B')"


def _log_ticks(low: float, high: float, ratio: float) -> tuple[float, ...]:
    """Powers of ten, and multiples between them where there are few powers."""
    digits = (1,) if ratio > 1e4 else (1, 3) if ratio > 100 else (1, 2, 5) if ratio > 5 else tuple(range(1, 10))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return tuple(float(f"{digit}e{power}") for power in powers for digit in digits)
