"""A small curve of a page's head, drawn as SVG in place: no script has to run before a reader sees it.

>>> small_curve([0, 10, 100], [5.0, 4.0, 2.5], mark=1, words="The loss").startswith("<svg")
True
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 216.0, 84.0
_LEFT, _RIGHT, _TOP, _FOOT = 6.0, 44.0, 10.0, 18.0
"""Room around the curve in pixels: for the dot, the last value, the largest, and the steps below."""

_WIDE = 20.0  # a last step beyond so many times the first positive one makes the axis logarithmic
_LETTER = 5.6  # width of a letter in pixels


def small_curve(times: Sequence[float], values: Sequence[float], *, mark: int, words: str) -> str:
    """The curve of `values` against step, with a ring at the place `mark`, and its first and last numbers.

    `words` say what is drawn, for readers who do not see it. Time is logarithmic where the steps span a factor of 20, and so
    are positive values where they do.
    """
    if not values:
        return ""
    across, up = _places(times, symmetric=True), _places(values, symmetric=False)
    points = [
        (_LEFT + x * (_WIDTH - _LEFT - _RIGHT), _TOP + (1 - y) * (_HEIGHT - _TOP - _FOOT))
        for x, y in zip(across, up, strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[mark]
    last_x, last_y = points[-1]
    told = f"{words}: {short(values[0])} at step {times[0]:,.0f}, {short(values[-1])} at step {times[-1]:,.0f}"
    return (
        f'<svg class="small" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{html.escape(told)}">'
        f'<line class="foot" x1="{_LEFT}" y1="{_HEIGHT - _FOOT + 2}" x2="{_WIDTH - _RIGHT}" y2="{_HEIGHT - _FOOT + 2}"/>'
        f'<line class="at" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{_HEIGHT - _FOOT + 2}"/>'
        f'<polyline points="{path}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        f'<text x="{last_x + 6:.1f}" y="{min(max(last_y + 3.5, 9), _HEIGHT - _FOOT):.1f}">{short(values[-1])}</text>'
        f"{_steps(times, mark, [point[0] for point in points])}</svg>"
    )


def short(value: float) -> str:
    """A number in at most four digits."""
    size = abs(value)
    if size and (size >= 1e5 or size < 1e-3):
        return f"{value:.2e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def _places(values: Sequence[float], *, symmetric: bool) -> list[float]:
    """Places between 0 and 1; logarithmic where the values span a wide range, and from 0 on for steps."""
    positive = sorted(value for value in values if value > 0)
    wide = len(positive) > 1 and positive[-1] > _WIDE * positive[0]
    if wide and symmetric:
        at = [math.copysign(math.log1p(abs(value) / positive[0]), value) for value in values]
    elif wide and len(positive) == len(values):
        at = [math.log(value) for value in values]
    else:
        at = [float(value) for value in values]
    low, high = min(at), max(at)
    return [(place - low) / (high - low) if high > low else 0.5 for place in at]


def _steps(times: Sequence[float], mark: int, across: Sequence[float]) -> str:
    """The first, the marked and the last step below the curve; those that would overlap are left out."""
    shown: list[tuple[float, str, str]] = []
    for place, wanted in ((mark, "middle"), (len(times) - 1, "end"), (0, "start")):
        words = _count(times[place])
        half = len(words) * _LETTER
        low = across[place] - {"start": 0.0, "middle": half / 2, "end": half}[wanted]
        low, anchor = (across[place], "start") if low < 0 else (low, wanted)
        if all(low + half + 4 < other or other + len(text) * _LETTER + 4 < low for other, text, _ in shown):
            x = {"start": low, "middle": low + half / 2, "end": low + half}[anchor]
            shown.append(
                (low, words, f'<text class="step" x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{words}</text>')
            )
    return "".join(text for _, _, text in shown)


def _count(step: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if step >= size:
            return f"{step / (1000 if letter == 'k' else size):.3g}{letter}"
    return f"{step:,.0f}"
