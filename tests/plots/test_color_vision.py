"""The palettes as seen with less than full colour vision: names, maps, bands, and the page's own colours."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import pytest
import vl_convert

import olmo_dynamics.plots
from olmo_dynamics.plots.bands import _FOUR, _SHADES
from olmo_dynamics.plots.colors import NULLS, magnitude_color, series_color
from olmo_dynamics.plots.theme import CATEGORIES
from olmo_dynamics.quantities import find
from tests.plots.accessibility import schemes
from tests.plots.drawing import VERSION

SEVERE = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
"""Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1; for linear RGB."""

TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
WHITE = [0.9505, 1.0, 1.089]
KINDS = ("full", *SEVERE)
SHADES = 9  # of a map's scale, from one end to the other


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB under D65, in which a distance of about 2.3 is just noticeable."""
    ratios = np.array(TO_XYZ) @ rgb.clip(0, 1) / WHITE
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def seen(color: str, kind: str) -> np.ndarray:
    """A colour in CIELAB, as eyes of one kind see it."""
    return lab(np.array(SEVERE.get(kind, np.eye(3))) @ linear(color))


def apart(one: str, other: str, kind: str) -> float:
    return float(np.linalg.norm(seen(one, kind) - seen(other, kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_any_two_of_the_colours_for_names_can_be_told_apart(kind: str) -> None:
    distances = {pair: apart(*pair, kind) for pair in combinations(CATEGORIES, 2)}
    closest = min(distances, key=distances.__getitem__)
    assert distances[closest] >= 10, (kind, closest, distances[closest])


def shades(scale: dict[str, Any], ends: tuple[float, float]) -> list[str]:
    """The colours of evenly spaced values on the scale of a map."""
    values = [{"value": float(value)} for value in np.linspace(*ends, SHADES)]
    color = {"field": "value", "type": "quantitative", "scale": scale, "legend": None}
    encoding = {"x": {"field": "value", "type": "ordinal"}, "color": color}
    svg = vl_convert.vegalite_to_svg(
        {"data": {"values": values}, "mark": "rect", "encoding": encoding}, vl_version=VERSION
    )
    [cells] = re.findall(r'<g class="mark-rect role-mark[^>]*>(.*?)</g>', svg, flags=re.S)
    found = re.findall(r'fill="(?:rgb\((\d+), ?(\d+), ?(\d+)\)|(#[0-9a-f]{6}))"', cells)
    assert len(found) == SHADES
    return [whole or "#" + "".join(f"{int(part):02x}" for part in parts) for *parts, whole in found]


def scale_of(color: alt.Color) -> dict[str, Any]:
    return dict(color.to_dict()["scale"])


def rising() -> dict[str, list[str]]:
    """The scales of magnitudes and of depth."""
    frame = pl.DataFrame({"rms": [0.0, 1.0], "layer": [0, 31]})
    magnitude = scale_of(magnitude_color(frame, "rms", find("parameters/rms")))
    return {
        "magnitude": shades(magnitude, (0.0, 1.0)),
        "layer": shades(scale_of(series_color(frame, "layer")), (0.0, 31.0)),
    }


def parting() -> dict[str, list[str]]:
    """The scales that part at a value: around a null value, and of shares of the logits."""
    null = NULLS["norm_sparsity"]
    frame = pl.DataFrame({"norm_sparsity": [null - 1, null + 1]})
    around = scale_of(magnitude_color(frame, "norm_sparsity", find("parameters/norm_sparsity")))
    shares = {"scheme": "blueorange", "domain": [-1, 1], "reverse": True}
    return {"null": shades(around, (null - 1, null + 1)), "shares": shades(shares, (-1, 1))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_magnitudes_grows_lighter_in_steps_that_are_seen(kind: str) -> None:
    for name, colors in rising().items():
        lightness = [seen(color, kind)[0] for color in colors]
        assert lightness == sorted(lightness), (name, kind)
        assert min(apart(*pair, kind) for pair in pairwise(colors)) >= 5, (name, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_around_a_value_is_palest_there_and_its_sides_can_be_told_apart(kind: str) -> None:
    for name, colors in parting().items():
        middle = SHADES // 2
        lightness = [seen(color, kind)[0] for color in colors]
        assert lightness[: middle + 1] == sorted(lightness[: middle + 1]), (name, kind)
        assert lightness[middle:] == sorted(lightness[middle:], reverse=True), (name, kind)
        sides = [apart(colors[middle - away], colors[middle + away], kind) for away in range(1, middle + 1)]
        assert min(sides) >= 10, (name, kind, sides)


def test_no_other_scale_is_drawn() -> None:
    sources = [path.read_text(encoding="utf-8") for path in Path(olmo_dynamics.plots.__path__[0]).rglob("*.py")]
    found = {name for text in sources for name in re.findall(r'(?:scheme|SchemeParams\(name)="(\w+)"', text)}
    assert found == {"viridis", "purpleorange", "blueorange"}


@pytest.mark.parametrize("kind", KINDS)
def test_bands_can_be_told_apart_and_so_can_the_curve_and_the_mark_of_a_finding(kind: str) -> None:
    for bands in (*_SHADES.values(), _FOUR):
        assert min((apart(*pair, kind) for pair in pairwise(("#ffffff", *bands))), default=99) >= 5, bands
    for scheme, colors in schemes().items():
        assert apart(colors["link"], colors["mark"], kind) >= 20, (scheme, kind)
