"""The routers' losses at values known in advance, and against NumPy."""

import numpy as np
import pytest
import torch

from olmo_dynamics.training.routing import balance, router_z


def test_a_router_without_preference_has_known_losses() -> None:
    logits = torch.zeros(2, 640, 64)
    assert float(router_z(logits)) == pytest.approx(np.log(64) ** 2, rel=1e-6)
    spread = torch.randn(2, 64_000, 64, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert float(balance(spread, 8)) == pytest.approx(1.0, abs=1e-3)
    one = torch.zeros(1, 10, 64)
    one[..., 7] = 100.0
    assert float(balance(one, 1)) == pytest.approx(64.0, rel=1e-6)  # the worst: E / k


def test_balance_is_the_formula() -> None:
    logits = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
    wanted = []
    for layer in logits.double().numpy():
        p = np.exp(layer) / np.exp(layer).sum(1, keepdims=True)
        chosen = np.argsort(-p, axis=1)[:, :3]
        f = np.array([(chosen == expert).any(1).mean() for expert in range(8)])
        wanted.append(8 / 3 * (f * p.mean(0)).sum())
    assert float(balance(logits, 3)) == pytest.approx(np.mean(wanted), rel=1e-6)
