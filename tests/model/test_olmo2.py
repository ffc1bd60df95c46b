"""OLMo 2: norms on what sublayers write."""

import math

import pytest

from olmo_dynamics.model import Olmo2, build_model, init_weights
from olmo_dynamics.names import Site
from tests.model.drawing import random_tokens, tiny_config
from tests.model.test_families import seen_by_ours


def test_query_and_key_norms_are_as_wide_as_all_heads_together():
    shapes = {name: tuple(tensor.shape) for name, tensor in build_model(tiny_config()).state_dict().items()}
    assert shapes["model.layers.0.self_attn.q_norm.weight"] == (4 * 12,)
    assert shapes["model.layers.0.self_attn.k_norm.weight"] == (2 * 12,)


def test_the_stream_grows_as_the_root_of_twice_the_depth_at_the_beginning():
    config = tiny_config(
        hidden_size=256, layers=8, heads=4, kv_heads=4, head_dim=64, intermediate_size=512, norm_eps=1e-12
    )
    model = build_model(config, device="cpu")
    assert isinstance(model, Olmo2)
    init_weights(model, seed=1)
    seen = seen_by_ours(model, random_tokens(config, 2, 32))
    for layer in range(config.layers):
        rms = float(seen[Site.RESIDUAL_OUT, layer].square().mean().sqrt())
        assert rms == pytest.approx(math.sqrt(2 * (layer + 1)), rel=0.05)
