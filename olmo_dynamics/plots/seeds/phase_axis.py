"""One time axis for a base model and its post-training: a section of its own steps for each phase, behind a dashed border.

A phase whose number of tokens is not known has no place on an axis of tokens. Its steps are those of other batches, so they
are drawn on a scale of their own, from 0 at the border to the last step.

    >>> steps = PhaseSection(1, "SFT", 1.0, 1.3, 43_000.0)
    >>> axis = PhaseAxis("tokens", TimeScale(), 0.0, 4e12, (steps,))
    >>> axis.in_base(np.array([2e12])).tolist(), axis.ticks[-2:]
    ([0.5], [(1.139535, '20k'), (1.27907, '40k')])
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import altair as alt
import numpy as np
from numpy.typing import NDArray

from olmo_dynamics.plots.axes import EDGE, TimeScale
from olmo_dynamics.plots.titles import X_TITLES

PLACE = "place"
"""The added column of places on the axis: 0 to 1 for the base, and beyond for the sections behind it."""

SHARE = 0.3
"""The width of a section as a share of the base's."""

_DIGITS = 6  # of a place
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PhaseSection:
    """The phases of one number in the order of post-training: names, both ends on the axis, last step."""

    number: int
    name: str
    start: float
    end: float
    last: float

    def places(self, steps: Array) -> Array:
        """The places of steps of these phases."""
        return self.start + (self.end - self.start) * steps / max(self.last, 1.0)


@dataclass(frozen=True, slots=True)
class PhaseAxis:
    """The axis of `field` (steps or tokens) from `low` to `high` for the base, then the sections; without a base, these alone."""

    field: str
    scale: TimeScale
    low: float
    high: float
    sections: tuple[PhaseSection, ...]
    has_base: bool = True

    def in_base(self, values: Array) -> Array:
        """The places of steps or tokens of the base: 0 to 1 by its scale."""
        first, last, own = (
            self.scale.place(np.asarray(each, dtype=np.float64)) for each in (self.low, self.high, values)
        )
        return np.asarray((own - first) / (last - first) if last > first else own * 0.0)

    @property
    def names(self) -> str:
        """The names of all phases in their order."""
        return " and ".join(filter(None, (", ".join(each.name for each in self.sections[:-1]), self.sections[-1].name)))

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The places that are labelled, each with its steps or tokens in short."""
        values = _base_ticks(self.scale, self.low, self.high) if self.has_base else []
        found = list(zip(self.in_base(np.array(values)).tolist(), map(_short, values), strict=True)) if values else []
        for section in self.sections:
            steps = [step for step in _even(0.0, section.last, 3) if step > 0]
            found += zip(section.places(np.array(steps)).tolist(), map(_short, steps), strict=True)
        return [(round(place, _DIGITS), label) for place, label in found]

    def channel(self) -> alt.X:
        """The x encoding: the base's title, and below it the words for what is behind the borders."""
        places, names = zip(*self.ticks, strict=True) if self.ticks else ((), ())
        label = f"{json.dumps(names)}[indexof({json.dumps(places)}, datum.value)]"
        behind = ["after a dashed line: its own steps"]
        first = X_TITLES[self.field] if self.has_base else f"steps of {self.sections[0].name}"
        title = [first, *(behind if self.has_base or len(self.sections) > 1 else [])]
        axis = alt.Axis(values=list(places), labelExpr=label, labelOverlap="greedy", grid=False)
        scale = alt.Scale(type="linear", zero=False, nice=False, padding=EDGE)
        return alt.X(PLACE, type="quantitative", title=title, scale=scale, axis=axis)


def _base_ticks(scale: TimeScale, low: float, high: float) -> list[float]:
    """Powers of ten on a logarithmic axis, and 0 where it begins there; even steps on a linear one."""
    if scale.kind == "linear":
        return _even(low, high, 5)
    least = scale.constant if scale.kind == "symlog" else low
    powers = range(math.ceil(math.log10(least)), math.floor(math.log10(high)) + 1)
    return [*([0.0] if low == 0 else []), *(10.0**power for power in powers if 10.0**power >= low)]


def _even(low: float, high: float, count: int) -> list[float]:
    """About `count` round values from `low` to `high`."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= raw)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    """1000 as 1k and 1e9 as 1B."""
    size, unit = next(((size, unit) for size, unit in _UNITS if value >= size), (1.0, ""))
    return f"{value / size:g}{unit}"
