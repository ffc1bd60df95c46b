"""Rotation by position."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.model import Yarn
from olmo_dynamics.model.rope import rope_positions, rope_table, rotate, stretched


def turned(x: torch.Tensor, theta: float) -> torch.Tensor:
    """A vector, as it would be at each of 64 positions."""
    rope = rope_table(torch.arange(64, dtype=torch.float64), head_dim=len(x), theta=theta)
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
    rope = rope_table(rope_positions(300, device="cpu", dtype=dtype), head_dim=8, theta=1e4)
    assert rope.cos.dtype == rope.sin.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert len(rope.cos[:, 0].unique()) == 300
    assert rotate(torch.ones(1, 300, 1, 8, dtype=dtype), rope).dtype == dtype


def frequencies(head_dim: int = 128, theta: float = 5e5) -> torch.Tensor:
    return theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


def test_yarn_keeps_fast_pairs_and_slows_slow_ones_by_its_factor():
    plain, yarn = frequencies(), Yarn(factor=8.0, original_positions=8192)
    ratio = stretched(plain, 5e5, yarn) / plain
    turns = 8192 * plain / (2 * math.pi)
    assert torch.equal(
        ratio[turns > 45], torch.ones_like(ratio[turns > 45])
    )  # a pair is 1.23 times slower than the next
    assert torch.allclose(ratio[turns < 0.8], torch.full_like(ratio[turns < 0.8], 1 / 8))
    assert (ratio.diff() <= 1e-15).all()
    assert ((ratio > 1 / 8 + 1e-9) & (ratio < 1 - 1e-9)).sum() >= 15


def test_yarn_multiplies_logits_by_the_square_of_its_magnitude():
    yarn = Yarn(factor=1.0, original_positions=64, attention_factor=1.5)
    query, key = torch.ones(2, 1, 8, 1, 16, dtype=torch.float64)
    tables = [
        rope_table(torch.arange(8.0, dtype=torch.float64), head_dim=16, theta=1e4, yarn=each) for each in (None, yarn)
    ]
    plain, scaled = ((rotate(query, rope) * rotate(key, rope)).sum(dim=-1) for rope in tables)
    assert torch.allclose(scaled, 2.25 * plain)
    assert Yarn(factor=1.0, original_positions=64).magnitude == 1.0
