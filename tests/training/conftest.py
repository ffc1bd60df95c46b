"""A model of a few thousand parameters, and how it is trained."""

from __future__ import annotations

import numpy as np
import pytest

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.recipe import Recipe


@pytest.fixture
def config() -> ModelConfig:
    """A model of a few thousand parameters whose last 16 embedding rows no token reaches."""
    return ModelConfig(
        hidden_size=24,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=6,
        intermediate_size=32,
        vocab_size=320,
        max_positions=32,
        norm_eps=1e-6,
        rope_theta=5e5,
        eos_token_id=0,
    )


@pytest.fixture
def recipe() -> Recipe:
    """Ten steps of 4 sequences of 16 tokens."""
    return Recipe(steps=10, sequences_per_step=4, sequence_length=16, peak_lr=1e-2, warmup_steps=3, seed=7)


@pytest.fixture
def tokens() -> np.ndarray:
    """Learnable tokens below 304: noisy counting."""
    noise = np.random.default_rng(0).integers(0, 3, 2000)
    return (np.cumsum(noise) % 304).astype(np.uint16)
