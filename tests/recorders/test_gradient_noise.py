"""The gradient noise scale: known values, its interval's coverage, and the products of windows that it rests on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.gradients.noise_scale import NoiseScale, noise_scale
from olmo_dynamics.recorders.gradients.window_products import WindowProducts


def of_gradients(gradients: np.ndarray, tokens: np.ndarray) -> NoiseScale:
    """The noise scale of windows whose gradients are at hand, [windows, parameters]."""
    probe = tokens @ gradients / tokens.sum()
    return noise_scale(float(probe @ probe), (gradients**2).sum(1), tokens, gradients @ gradients.T)


def drawn(rng: np.random.Generator, windows: int, tokens: int, *, scale: float, width: int = 64) -> np.ndarray:
    """Gradients whose true noise scale is `scale` tokens: |G|² = 1, and tr Σ = scale."""
    return 1 / np.sqrt(width) + rng.normal(size=(windows, width)) * np.sqrt(scale / width / tokens)


def test_with_windows_of_one_length_it_is_that_of_mccandlish() -> None:
    gradients = drawn(np.random.default_rng(0), 16, 32, scale=400)
    found = of_gradients(gradients, np.full(16, 32))
    big, small = (gradients.mean(0) ** 2).sum(), (gradients**2).sum(1).mean()
    square = (512 * big - 32 * small) / (512 - 32)
    trace = (small - big) / (1 / 32 - 1 / 512)
    assert (found.square, found.trace, found.scale) == pytest.approx((square, trace, trace / square))
    assert found.low < found.scale < found.high
    assert found.status == Status.MEASURED


def test_numerator_and_denominator_are_unbiased_for_windows_of_any_length() -> None:
    rng, tokens = np.random.default_rng(1), np.array([31] * 7 + [5])
    found = []
    for _ in range(600):
        noise = rng.normal(size=(8, 16)) * np.sqrt(200 / 16 / tokens)[:, None]
        found.append(of_gradients(0.25 + noise, tokens))
    assert np.mean([each.square for each in found]) == pytest.approx(1, rel=0.1)
    assert np.mean([each.trace for each in found]) == pytest.approx(200, rel=0.05)


@pytest.mark.parametrize(("scale", "least"), [(100, 0.85), (2000, 0.85)])
def test_the_interval_holds_the_true_scale(scale: float, least: float) -> None:
    rng = np.random.default_rng(2)
    found = [of_gradients(drawn(rng, 16, 32, scale=scale), np.full(16, 32)) for _ in range(50)]
    assert np.mean([each.low <= scale <= each.high for each in found]) >= least


def test_it_is_marked_where_it_cannot_be_told() -> None:
    noise = np.array([[1.0, -1.0] * 4]).T * np.ones((8, 3))
    found = of_gradients(noise, np.full(8, 4))
    assert found.square < 0
    assert np.isnan(found.scale) and found.high == np.inf
    assert found.status == Status.DEGENERATE
    assert of_gradients(noise[:7], np.full(7, 4)).status == Status.NOT_MEASURED
    infinite = noise_scale(np.inf, np.full(8, np.inf), np.full(8, 4), np.zeros((8, 8)))
    assert infinite.status == Status.NONFINITE


@pytest.mark.parametrize("size", [7, 1024, 5000, 4_200_000])
def test_products_of_windows_are_within_their_error(size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    column, rows = torch.randn(-(-size // 7), 1, generator=generator), torch.randn(3, 7, generator=generator)
    gradients = [(column * row).reshape(-1)[:size] for row in rows]  # of rank 1, as a gradient nearly is
    products = WindowProducts(3)
    for window, gradient in enumerate(gradients):
        products.add("a", window, gradient)
    products.close("a")
    exact = np.array([[float(x.double() @ y.double()) for x in gradients] for y in gradients])
    error = 0 if size <= 1024 else 4 / 32
    norms = np.sqrt(np.diag(exact))
    assert (np.abs(products.gram - exact) <= (error + 1e-6) * np.outer(norms, norms)).all()
