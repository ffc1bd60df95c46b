"""Llama: the ways its rotation is stretched, biases, and the configs of published runs."""

import math

import pytest
import torch
import transformers

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.model import DynamicScaling, LinearScaling, Llama3Scaling, Yarn, expected_shapes, parse_config
from tests.model.drawing import distance, random_model, random_tokens, same_in_transformers, tiny_config

LEAST = {
    "model_type": "llama",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 97,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def test_absent_keys_default_as_in_transformers():
    config, theirs = parse_config(LEAST), transformers.LlamaConfig(**LEAST)
    assert (config.max_positions, config.norm_eps) == (theirs.max_position_embeddings, theirs.rms_norm_eps)
    assert (config.kv_heads, config.head_dim) == (theirs.num_key_value_heads, theirs.head_dim)
    assert config.rope_theta == theirs.rope_parameters["rope_theta"]
    special = (config.pad_token_id, config.bos_token_id, config.eos_token_id)
    assert special == (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id)
    assert parse_config(theirs.to_dict()) == config


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("positions", [5, 40])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {"type": "dynamic", "factor": 2.0},
        {"rope_type": "llama3", **LLAMA3},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ],
    ids=lambda rope: str(next(iter(rope.values()))),
)
def test_each_way_to_stretch_rope_is_transformers(key, positions, rope):
    written = LEAST | {"max_position_embeddings": 16, key: rope}
    model = random_model(parse_config(written))
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**written | {key: dict(rope)}))
    theirs.load_state_dict(model.state_dict())
    token_ids = random_tokens(model.config, 2, positions)
    with torch.no_grad():
        assert distance(model(token_ids), theirs(token_ids).logits) <= 1e-5


def test_scalings_are_read_with_their_defaults():
    def read(**rope):
        return parse_config(LEAST | {"rope_scaling": rope})

    factors = {name: LLAMA3[name] for name in ("factor", "low_freq_factor", "high_freq_factor")}
    assert read(rope_type="linear", factor=2).scaling == LinearScaling(factor=2)
    assert read(type="dynamic", factor=2.0).scaling == DynamicScaling(factor=2.0)
    assert read(rope_type="llama3", **factors).scaling == Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=2048
    )
    assert read(rope_type="yarn", factor=2.0).yarn == Yarn(factor=2.0, original_positions=2048)


def test_a_text_within_the_models_positions_is_not_stretched_by_length():
    plain = random_model(tiny_config("llama", scaling=None, max_positions=16))
    grown = random_model(tiny_config("llama", scaling=DynamicScaling(factor=4.0), max_positions=16))
    assert torch.equal(plain.ropes(16)[0].cos, grown.ropes(16)[0].cos)
    assert not torch.allclose(plain.ropes(17)[0].cos[:16], grown.ropes(17)[0].cos[:16])
    theta = DynamicScaling(factor=4.0).theta(1e4, rotary_dim=8, excess=2.0)
    assert theta == pytest.approx(1e4 * 5 ** (8 / 6)) and math.isfinite(theta)


def test_biases_are_where_the_config_says():
    for changes, roles in (
        ({}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ({"attention_bias": False, "mlp_bias": True}, {"gate_proj", "up_proj", "down_proj"}),
        ({"attention_bias": False}, set()),
    ):
        config = tiny_config("llama", **changes)
        assert {name.split(".")[-2] for name in expected_shapes(config) if name.endswith(".bias")} == roles
        model, token_ids = random_model(config), random_tokens(config, 2, 9)
        with torch.no_grad():
            assert distance(model(token_ids), same_in_transformers(model)(token_ids).logits) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
            "rope_scaling must be of rope_type 'default', 'linear', 'dynamic', 'llama3' or 'yarn' for the forward pass "
            "implemented here (got {'rope_type': 'longrope', 'factor': 2.0}); record parameters only",
        ),
        (
            {"rope_scaling": {"rope_type": "linear"}},
            "factor must be a number above 0 (got None); correct the config",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 0.5}},
            "factor must be at least 1 to stretch RoPE (got 0.5); correct the config",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}},
            "low_freq_factor must be below high_freq_factor (got 4.0 and 4.0); correct the config",
        ),
        (
            {"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "head_dim must be at least 4 for dynamic RoPE scaling (got 2); correct the config",
        ),
        (
            {"rope_interleaved": True},
            "rope_interleaved must be False for the forward pass implemented here (got True); record parameters only",
        ),
    ],
)
def test_configs_that_mean_nothing_or_another_model_are_refused(changes, message):
    with pytest.raises(CheckpointError) as caught:
        parse_config(LEAST | changes)
    assert str(caught.value) == message


def test_two_ways_at_once_are_refused():
    with pytest.raises(CheckpointError) as caught:
        tiny_config("llama", yarn=Yarn(factor=2.0, original_positions=8))
    assert str(caught.value).startswith("scaling must be left out beside yarn (got Llama3Scaling(factor=8.0, ")
