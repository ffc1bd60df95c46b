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
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from numpy.typing import NDArray

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.theme import YScale
from olmo_dynamics.plots.titles import X_TITLES, axis_title
from olmo_dynamics.quantities.declaration import Quantity

Array = NDArray[np.float64]

_LINEAR_BELOW = 20.0  # a time axis whose end is less than this many times its start needs no logarithm
_LOG_FROM = 20.0  # a value axis turns logarithmic above this ratio of largest to smallest
_EDGE = 5  # pixels between an axis' ends and the first and last mark, which would otherwise be cut in half
_TICK_PIXELS = 38  # width that one tick label of the time axis takes


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """The axis of step or tokens along x: its scale and its ticks."""

    field: str  # step or tokens
    log: bool
    constant: float  # below it the axis is linear
    ticks: tuple[float, ...]  # labelled
    minor: tuple[float, ...]  # without a label until a reader zooms in

    @property
    def kind(self) -> dict[str, Any]:
        """The scale's type, as altair's Scale takes it."""
        return {"type": "symlog", "constant": self.constant} if self.log else {"type": "linear", "zero": False}

    def channel(self, field: str = "", *, seen: str = "", domain: Any = alt.Undefined) -> alt.X:
        """The x encoding of `field`, or of the axis' own field if none is given.

        `seen` is Vega's expression for the interval that a selection shows. Minor ticks are labelled where it is short.
        """
        scale = alt.Scale(**self.kind, nice=False, domain=domain, padding=alt.Undefined if field else _EDGE)
        title = X_TITLES[self.field]
        return alt.X(field or self.field, type="quantitative", title=title, scale=scale, axis=self._axis(seen))

    def place(self, values: Array) -> Array:
        """Positions of values on the axis, in its own unit."""
        return np.sign(values) * np.log1p(np.abs(values) / self.constant) if self.log else values

    def unplace(self, places: Array) -> Array:
        """Values at positions on the axis; the inverse of `place`."""
        return np.sign(places) * np.expm1(np.abs(places)) * self.constant if self.log else places

    def _axis(self, seen: str) -> alt.Axis:
        words = short_number("datum.value")
        if not self.log:
            return alt.Axis(labelExpr=words, labelOverlap="greedy", tickCount=5, grid=False)
        major = f"indexof({json.dumps(self.ticks)}, datum.value) >= 0"
        near = f" || isArray({seen}) && {seen}[1] < 50 * max({seen}[0], {self.constant:g})" if seen else ""
        return alt.Axis(
            values=[*self.ticks, *self.minor],
            labelExpr=f"{major}{near} ? {words} : ''",
            labelOverlap="greedy",
            tickSize={"condition": {"test": major, "value": 6}, "value": 3},
            grid=False,
        )


def time_axis(frame: pl.DataFrame, x: str, *, width: int) -> TimeAxis:
    """The time axis for the steps or tokens in a table, in a picture that is `width` pixels wide."""
    values = sorted(float(value) for value in frame[x].unique() if value is not None)
    positive = [value for value in values if value > 0]
    if len(values) < 3 or positive[-1] < _LINEAR_BELOW * positive[0]:
        return TimeAxis(x, False, 1.0, (), ())
    constant = 10.0 ** math.floor(math.log10(positive[0]))
    powers = range(round(math.log10(constant)), math.floor(math.log10(positive[-1])) + 1)
    decades = [10.0**power for power in powers]
    zero = [0.0] if values[0] == 0 else []
    ticks = [*zero, *_spaced(decades, constant, width / math.log1p(positive[-1] / constant), bool(zero))]
    digits = range(1, 10) if width >= 300 else (1, 3)
    minor = [decade * digit for decade in decades for digit in digits if decade * digit not in ticks]
    return TimeAxis(x, True, constant, tuple(ticks), tuple(value for value in minor if value <= positive[-1]))


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
        ends = {"padding": _EDGE} if domain is None else {"domain": list(domain), "nice": False}
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
    return f"replace(format({value}, '~s'), 'G', 'B')"


def _log_ticks(low: float, high: float, ratio: float) -> tuple[float, ...]:
    """Powers of ten, and multiples between them where there are few powers."""
    digits = (1,) if ratio > 1e4 else (1, 3) if ratio > 100 else (1, 2, 5) if ratio > 5 else tuple(range(1, 10))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return tuple(float(f"{digit}e{power}") for power in powers for digit in digits)
