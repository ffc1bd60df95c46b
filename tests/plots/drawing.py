"""Rendering of charts as in a browser, and counts of their marks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import altair as alt
import vl_convert

from olmo_dynamics.plots import AnyChart

VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
PNG = b"\x89PNG\r\n\x1a\n"


def drawn(chart: AnyChart) -> dict[str, int]:
    """The number of marks that the chart draws, by mark type; it must render as PNG too."""
    spec = chart.to_dict()
    assert vl_convert.vegalite_to_png(spec, vl_version=VERSION, scale=0.5).startswith(PNG)
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VERSION)
    counts: dict[str, int] = {}
    for group in re.findall(r'<g class="mark-(\w+) role-mark[^>]*>(.*?)</g>', svg, flags=re.S):
        counts[group[0]] = counts.get(group[0], 0) + len(re.findall(r"<(?:path|text|rect|line)\b", group[1]))
    return counts


def encodings(spec: Any, channel: str) -> Iterator[dict[str, Any]]:
    """Every encoding of one channel, anywhere in a spec."""
    if isinstance(spec, dict):
        found = spec.get("encoding", {})
        if isinstance(found, dict) and channel in found:
            yield found[channel]
        for name, part in spec.items():
            if name != "datasets":
                yield from encodings(part, channel)
    elif isinstance(spec, list):
        for part in spec:
            yield from encodings(part, channel)


def titles(chart: AnyChart, channel: str) -> set[str]:
    """The titles that a channel has anywhere in a chart."""
    return {str(found["title"]) for found in encodings(chart.to_dict(), channel) if "title" in found}


def subtitle(chart: AnyChart) -> str:
    """The subtitle, its lines joined."""
    return " ".join(chart.to_dict()["title"]["subtitle"])


def selections(chart: AnyChart) -> set[str]:
    """The names of the chart's parameters, at any depth."""
    names: set[str] = set()

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            names.update(found["name"] for found in part.get("params", []))
            for name, inner in part.items():
                if name != "datasets":
                    walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(chart.to_dict())
    return names
