"""The cadence of saved steps, found from the steps alone: regular, missing and extra steps.

Runs change their cadence half way (500 steps, later 1000), restart at odd steps, and end off it, so no single spacing is
right. A *stretch* is at least five saved steps in a row, evenly spaced at multiples of that spacing; stretches of the finest
spacing are found first. Between two stretches, the absent multiples of the coarser of their spacings are missing.

    >>> find_cadence([0, 1000, 2000, 3000, 4000, 4100, 5000, 7000, 8000, 9000, 10000, 11000]).missing
    (6000,)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LINKS = 4
"""Equal gaps in a row that make a stretch."""

MOST_MISSING = 10_000
"""Most missing steps of a gap; with more between them, two stretches are separate series of steps."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Saved steps `first`, `first + spacing`, …, `last`, all there."""

    spacing: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Cadence:
    """The stretches of a run in order, the steps missing between them, and the extra steps."""

    stretches: tuple[Stretch, ...]
    missing: tuple[int, ...]
    extra: tuple[int, ...]

    @property
    def words(self) -> str:
        """`every 500 steps to 160500, then every 1000`."""
        merged: list[Stretch] = []
        for each in self.stretches:
            if not merged or merged[-1].spacing != each.spacing:
                merged.append(each)
            else:
                merged[-1] = Stretch(each.spacing, merged[-1].first, each.last)
        if not merged:
            return "no cadence"
        parts = [f"every {each.spacing} steps to {each.last}" for each in merged[:3]]
        more = f", then {len(merged) - 3} more changes" if len(merged) > 3 else ""
        return ", then ".join(parts) + more


def find_cadence(steps: Sequence[int]) -> Cadence:
    """The cadence of saved steps, in any order, repeats allowed.

    The last step is never extra: a run ends where it ends.
    """
    ordered = sorted(set(steps))
    stretches = _stretches(ordered)
    if not stretches:
        return Cadence((), (), ())
    there = set(ordered)
    missing = [step for left, right in pairwise(stretches) for step in _between(left, right) if step not in there]
    extra = [step for step in ordered[:-1] if not _on_cadence(step, stretches)]
    return Cadence(tuple(stretches), tuple(missing), tuple(extra))


def _stretches(ordered: Sequence[int]) -> list[Stretch]:
    """Stretches in order, without overlaps; finer spacings are found first."""
    gaps = Counter(right - left for left, right in pairwise(ordered))
    found: list[Stretch] = []
    for spacing in sorted(gap for gap, count in gaps.items() if count > 1):
        for first, last in _chains([step for step in ordered if step % spacing == 0], spacing):
            found += _outside(Stretch(spacing, first, last), found)
    return sorted(found, key=lambda each: each.first)


def _chains(steps: Sequence[int], spacing: int) -> list[tuple[int, int]]:
    """The ends of every maximal row of steps that are exactly `spacing` apart."""
    found: list[tuple[int, int]] = []
    for step in steps:
        if found and step - found[-1][1] == spacing:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return [(first, last) for first, last in found if last - first >= LINKS * spacing]


def _outside(stretch: Stretch, taken: Sequence[Stretch]) -> list[Stretch]:
    """The parts of a stretch outside those already found, if they are still long enough."""
    parts = [stretch]
    for other in taken:
        parts = [piece for part in parts for piece in _cut(part, other)]
    return [part for part in parts if part.last - part.first >= LINKS * part.spacing]


def _cut(part: Stretch, other: Stretch) -> list[Stretch]:
    if part.last <= other.first or part.first >= other.last:
        return [part]
    spacing = part.spacing
    left = Stretch(spacing, part.first, other.first // spacing * spacing)
    right = Stretch(spacing, -(-other.last // spacing) * spacing, part.last)
    return [piece for piece in (left, right) if piece.first < piece.last]


def _between(left: Stretch, right: Stretch) -> range:
    """The multiples of the coarser spacing between two stretches; empty if there are too many."""
    spacing = max(left.spacing, right.spacing)
    found = range((left.last // spacing + 1) * spacing, right.first, spacing)
    return found if len(found) <= MOST_MISSING else range(0)


def _on_cadence(step: int, stretches: Sequence[Stretch]) -> bool:
    """True if a step fits the stretch that contains it, or one of the two around it."""
    before = [each for each in stretches if each.first <= step]
    after = [each for each in stretches if each.last >= step]
    inside = [each for each in before if each.last >= step]
    near = inside or [*before[-1:], *after[:1]]
    return any(step % each.spacing == 0 for each in near)
