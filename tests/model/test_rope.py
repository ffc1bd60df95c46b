"""Rotation by position."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.model.rope import rope_table, rotate


def turned(x: torch.Tensor, theta: float) -> torch.Tensor:
    """A vector, as it would be at each of 64 positions."""
    rope = rope_table(positions=64, head_dim=len(x), theta=theta, dtype=torch.float64)
    return rotate(x.expand(1, 64, 1, -1), rope)[0, :, 0]


@given(seed=st.integers(0, 99), half=st.integers(1, 8), theta=st.sampled_from([10.0, 1e4, 5e5]))
def test_products_depend_on_the_distance_between_positions_only(seed, half, theta):
    query, key = torch.randn(2, 2 * half, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    products = turned(query, theta) @ turned(key, theta).T
    for distance in (0, 1, 7, 40):
        along = products.diagonal(-distance)
        assert torch.allclose(along, along[0].expand_as(along), rtol=1e-10, atol=1e-10)


@given(seed=st.integers(0, 99), half=st.integers(1, 8))
def test_lengths_stay(seed, half):
    x = torch.randn(2 * half, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = turned(x, 1e4).norm(dim=1)
    assert torch.allclose(lengths, x.norm().expand_as(lengths))


def test_the_first_pair_turns_by_one_radian_a_position():
    x = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)  # the first feature, of the pair (0, 2)
    at = turned(x, 1e4)
    for position in (0, 1, 5):
        wanted = [math.cos(position), 0.0, math.sin(position), 0.0]
        assert at[position].tolist() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_angles_are_at_least_float32_and_results_in_the_models_dtype(dtype):
    rope = rope_table(positions=300, head_dim=8, theta=1e4, dtype=dtype)
    assert rope.cos.dtype == rope.sin.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert len(rope.cos[:, 0].unique()) == 300
    assert rotate(torch.ones(1, 300, 1, 8, dtype=dtype), rope).dtype == dtype
