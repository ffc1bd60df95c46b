"""Sums over AdamW's moments equal NumPy's in float64, in pieces or whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.recorders.kernels import adam_sums as kernel
from olmo_dynamics.recorders.kernels.adam_sums import AdamSums, Correction, adam_sums


def by_numpy(m: np.ndarray, v: np.ndarray, beta1: float, beta2: float, eps: float, step: float) -> AdamSums:
    root = np.sqrt(v / (1 - beta2**step))
    update = m / (1 - beta1**step) / (root + eps)
    return AdamSums((m**2).sum(), v.sum(), (update**2).sum(), int((root < eps).sum()))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 3000), st.floats(0, 0.99), st.floats(0, 0.999), st.floats(1e-9, 1),
    st.integers(1, 10**6), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)  # fmt: skip
def test_equal_numpys(
    seed: int, count: int, beta1: float, beta2: float, eps: float, step: int, dtype: torch.dtype
) -> None:
    rng = np.random.default_rng(seed)
    first = torch.tensor(rng.standard_normal(count) * 1e-3).to(dtype)
    second = torch.tensor(rng.standard_normal(count) ** 2 * 10.0 ** rng.uniform(-9, 0)).to(dtype)
    found = adam_sums(first, second, Correction(beta1, beta2, eps, step))
    expected = by_numpy(first.double().numpy(), second.double().numpy(), beta1, beta2, eps, step)
    assert found[:3] == pytest.approx(expected[:3], rel=1e-11)
    assert abs(found.dominated - expected.dominated) <= 1  # an element on the border
    # scaling both moments as a gradient would be scaled changes the update only through eps
    scaled = adam_sums(first * 4, second * 16, Correction(beta1, beta2, 4 * eps, step))
    assert scaled.update_squares == pytest.approx(found.update_squares, rel=1e-6)


def test_pieces_add_up_and_a_frozen_step_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    first, second = (torch.tensor(each, dtype=torch.float32) for each in (rng.standard_normal(999), rng.random(999)))
    whole = adam_sums(first, second, Correction(0.9, 0.95, 1e-8, 0))
    monkeypatch.setattr(kernel, "PIECE", 100)
    assert adam_sums(first, second, Correction(0.9, 0.95, 1e-8, 1)) == pytest.approx(whole, rel=1e-12)


def test_unknown_parts_are_nan() -> None:
    first, second = torch.ones(3), torch.full((3,), 2.0)
    assert adam_sums(first, None, None) == pytest.approx((3.0, np.nan, np.nan, -1), nan_ok=True)
    assert adam_sums(first, second, None) == pytest.approx((3.0, 6.0, np.nan, -1), nan_ok=True)
    first[1] = torch.inf
    assert adam_sums(first, second, Correction(0.9, 0.95, 1e-8, 3)).first_squares == np.inf
