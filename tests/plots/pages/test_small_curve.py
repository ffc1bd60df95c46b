"""Small curves of the head of a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from olmo_dynamics.plots.pages.small_curve import short, small_curve


def test_a_curve_runs_from_left_to_right_and_marks_its_place() -> None:
    drawn = small_curve([0, 10, 100, 1_000], [5.0, 4.0, 2.5, 2.0], mark=2, words='The "loss" <b>')
    root = ET.fromstring(drawn)
    assert root.get("aria-label") == 'The "loss" <b>: 5 at step 0, 2 at step 1,000'
    points = [tuple(map(float, pair.split(","))) for pair in root.find("polyline").get("points").split()]  # type: ignore[union-attr]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points), "a fall goes down the page"
    ring = root.find("circle")
    assert ring is not None and (float(ring.get("cx", "")), float(ring.get("cy", ""))) == points[2]
    assert [text.text for text in root.findall("text")] == ["2", "100", "1,000", "0"]


def test_steps_that_would_overlap_are_left_out() -> None:
    drawn = small_curve([0, 999_000, 1_000_000], [1.0, 1.0, 1.0], mark=1, words="flat")
    assert re.findall(r'class="step"[^>]*>([^<]*)<', drawn) == ["999k", "0"]
    assert small_curve([], [], mark=0, words="") == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0"), (0.01234, "0.0123"), (12.345, "12.3"), (54321.0, "54,321"), (1.5e-7, "1.50e-7"), (2e6, "2.00e6")],
)
def test_numbers_are_short(value: float, words: str) -> None:
    assert short(value) == words
