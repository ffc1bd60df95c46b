"""The palette as seen with less than full colour vision."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from olmo_dynamics.plots.theme import CATEGORIES

SEVERE = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
"""Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1; for linear RGB."""

TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
WHITE = [0.9505, 1.0, 1.089]


def linear(color: str) -> np.ndarray:
    rgb = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB under D65, in which a distance of about 2.3 is just noticeable."""
    ratios = np.array(TO_XYZ) @ rgb.clip(0, 1) / WHITE
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", ["full", *SEVERE])
def test_any_two_of_the_colours_for_names_can_be_told_apart(kind: str) -> None:
    matrix = np.array(SEVERE.get(kind, np.eye(3)))
    seen = {color: lab(matrix @ linear(color)) for color in CATEGORIES}
    distances = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(CATEGORIES, 2)}
    closest = min(distances, key=distances.__getitem__)
    assert distances[closest] >= 10, (kind, closest, distances[closest])
