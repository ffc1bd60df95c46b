"""Olmo 3: windows, YaRN on full layers only, and the ways its config is written."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.model import ModelConfig, Yarn, expected_shapes, parse_config, to_config_json
from olmo_dynamics.model.layers import visible
from tests.model.drawing import distance, random_model, random_tokens, same_in_transformers, tiny_config

LEAST = {
    "model_type": "olmo3",
    "hidden_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "sliding_window": 4,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.2079441541679836,
}


def as_transformers_reads(written: dict[str, Any]) -> ModelConfig:
    """The settings of transformers' config of the same JSON, by layer type."""
    theirs = transformers.Olmo3Config(**json.loads(json.dumps(written)))
    return parse_config(theirs.to_dict() | {"rope_theta": theirs.rope_parameters["full_attention"]["rope_theta"]})


def test_absent_keys_default_as_in_transformers():
    config = parse_config(LEAST)
    assert (config.sliding_window, config.sliding_layers) == (4, (0, 1, 2, 4))
    assert (config.rope_theta, config.sliding_rope_theta, config.yarn) == (5e5, None, None)
    assert config == as_transformers_reads(LEAST)
    least = {key: value for key, value in LEAST.items() if key != "sliding_window"}
    assert parse_config(least).sliding_window == 4096 == transformers.Olmo3Config(**least).sliding_window


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000, "rope_scaling": None},
        {"rope_theta": 500000.0, "rope_scaling": YARN},
        {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        {
            "rope_parameters": {
                "full_attention": YARN | {"rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            }
        },
    ],
)
@pytest.mark.parametrize("layer_types", [None, ["full_attention", "sliding_attention"] * 2 + ["sliding_attention"]])
def test_each_spelling_means_what_transformers_makes_of_it(rope, layer_types):
    written = LEAST | rope | ({"layer_types": layer_types} if layer_types else {})
    config = parse_config(written)
    assert config == as_transformers_reads(written)
    model, token_ids = random_model(config), random_tokens(config, 2, 40)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.Olmo3Config(**json.loads(json.dumps(written))))
    theirs.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert distance(model(token_ids), theirs(token_ids).logits) <= 1e-5


def test_one_flat_theta_is_every_layers_though_transformers_forgets_the_sliding_ones():
    flat = LEAST | {"rope_theta": 1e4, "rope_scaling": YARN}
    config = parse_config(flat)
    assert (config.rope_theta, config.sliding_rope_theta) == (1e4, None)
    theirs = transformers.Olmo3Config(**json.loads(json.dumps(flat))).rope_parameters
    assert (theirs["full_attention"]["rope_theta"], theirs["sliding_attention"]["rope_theta"]) == (1e4, 5e5)
    ours = transformers.Olmo3Config(**to_config_json(config)).rope_parameters
    assert (ours["full_attention"]["rope_theta"], ours["sliding_attention"]["rope_theta"]) == (1e4, 1e4)


def test_both_generations_of_keys_are_written_and_read_together():
    config = replace(parse_config(LEAST | {"rope_theta": 1e4, "rope_scaling": YARN}), sliding_rope_theta=300.0)
    written = to_config_json(config)
    assert written["rope_scaling"] == YARN
    assert written["rope_parameters"] == {
        "full_attention": YARN | {"rope_theta": 1e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    }
    assert parse_config(json.loads(json.dumps(written))) == config


def test_branches_of_one_repo_differ_in_their_config():
    published = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11008, "vocab_size": 100278, "rms_norm_eps": 1e-6, "rope_theta": 500000,
        "sliding_window": 4096, "model_type": "olmo3", "pad_token_id": 100277, "eos_token_id": 100257,
        "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 8,
    }  # fmt: skip
    short = parse_config(published | {"max_position_embeddings": 8192, "rope_scaling": None})
    scaling = YARN | {"original_max_position_embeddings": 8192}
    long = parse_config(published | {"max_position_embeddings": 65536, "rope_scaling": scaling})
    assert (short.yarn, short.max_positions) == (None, 8192)
    assert long.yarn == Yarn(factor=8.0, original_positions=8192, attention_factor=1.2079441541679836)
    assert Yarn(factor=8.0, original_positions=8192).magnitude == pytest.approx(1.2079441541679836, rel=1e-15)
    assert (long.window(30), long.window(31)) == (4096, None)
    assert expected_shapes(short) == expected_shapes(long)


@given(positions=st.integers(1, 12), window=st.integers(1, 14))
def test_a_window_counts_the_tokens_own_position(positions, window):
    seen = visible(positions, window)
    for i in range(positions):
        assert seen[i].nonzero().flatten().tolist() == list(range(max(0, i - window + 1), i + 1))


@settings(max_examples=10, deadline=None)
@given(window=st.integers(1, 8), position=st.integers(0, 11))
def test_a_token_matters_inside_the_window_only(window, position):
    model = random_model(
        tiny_config("olmo3", layers=1, sliding_layers=(0,), sliding_window=window), dtype=torch.float64
    )
    token_ids = random_tokens(model.config, 1, 12)
    changed = token_ids.clone()
    changed[:, position] = (changed[:, position] + 1) % model.config.vocab_size
    with torch.no_grad():
        differs = (model(token_ids) - model(changed))[0].abs().amax(dim=-1) > 1e-9
    assert differs.nonzero().flatten().tolist() == list(range(position, min(position + window, 12)))


def test_full_layers_are_stretched_and_sliding_ones_are_not():
    plain, stretched = (
        random_model(tiny_config("olmo3", yarn=yarn)) for yarn in (None, Yarn(factor=8.0, original_positions=8))
    )
    before, after = plain.ropes(20), stretched.ropes(20)
    assert after[0] is after[1]  # layers of a kind share their table
    assert torch.equal(after[0].cos, before[0].cos)
    assert not torch.allclose(after[2].cos, before[2].cos)


@pytest.mark.parametrize("positions", [3, 4, 5, 40])
def test_windows_shorter_and_longer_than_the_text_equal_transformers(positions):
    model = random_model(tiny_config("olmo3", sliding_window=4))
    token_ids = random_tokens(model.config, 2, positions)
    with torch.no_grad():
        assert distance(model(token_ids), same_in_transformers(model)(token_ids).logits) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "rope_parameters must be given for full_attention and sliding_attention apart for the forward pass implemented "
            "here (got {'rope_type': 'default', 'rope_theta': 10000.0}); record parameters only",
        ),
        (
            {"rope_parameters": {"full_attention": {}, "sliding_attention": None}},
            "rope_parameters must be given for full_attention and sliding_attention apart for the forward pass implemented "
            "here (got {'full_attention': {}, 'sliding_attention': None}); record parameters only",
        ),
        (
            {"rope_parameters": {"sliding_attention": YARN}},
            "rope_parameters of sliding_attention must be of rope_type 'default' for the forward pass implemented here "
            f"(got {YARN!r}); record parameters only",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling must be of rope_type 'default' or 'yarn' for the forward pass implemented here "
            "(got {'rope_type': 'linear', 'factor': 2.0}); record parameters only",
        ),
        (
            {"rope_scaling": YARN | {"truncate": False}},
            "truncate of rope_scaling must be absent or True for the forward pass implemented here (got False); "
            "record parameters only",
        ),
        (
            {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}},
            "partial_rotary_factor of rope_parameters must be absent or 1 for the forward pass implemented here "
            "(got 0.5); record parameters only",
        ),
        (
            {"rope_parameters": {"sliding_attention": {"rope_theta": 0}}},
            "rope_parameters.sliding_attention.rope_theta must be a number above 0 (got 0); correct the config",
        ),
        (
            {"rope_scaling": YARN, "rope_parameters": {"full_attention": {"rope_type": "default"}}},
            f"rope_scaling must equal rope_parameters of full_attention (got {YARN!r} and "
            "{'rope_type': 'default'}); remove the wrong one",
        ),
        (
            {"rope_theta": 1e4, "rope_parameters": {"full_attention": {"rope_theta": 5e5}}},
            "rope_theta must be one number (got 500000.0 in rope_parameters and 10000.0 outside it); remove one",
        ),
        ({"rope_scaling": {"rope_type": "yarn"}}, "factor must be a number above 0 (got None); correct the config"),
        (
            {"rope_scaling": YARN | {"factor": 0.5}},
            "factor must be at least 1 to stretch RoPE (got 0.5); correct the config",
        ),
        (
            {"rope_scaling": YARN | {"original_max_position_embeddings": 0}},
            "rope_scaling.original_max_position_embeddings must be a whole number of at least 1 (got 0); correct the config",
        ),
        (
            {"rope_scaling": YARN, "rope_theta": 1.0},
            "rope_theta must be above 1 for YaRN (got 1.0); correct the config",
        ),
        (
            {"layer_types": ["full_attention"]},
            "layer_types must name 5 layers, as in num_hidden_layers (got 1); correct the config",
        ),
        (
            {"layer_types": ["full_attention"] * 4 + ["linear_attention"]},
            "layer_types must be 'full_attention' or 'sliding_attention' for the forward pass implemented here "
            "(got ['linear_attention']); record parameters only",
        ),
        (
            {"sliding_window": None},
            "sliding_window must be a whole number of at least 1 (got None); correct the config",
        ),
        ({"sliding_window": 0}, "sliding_window must be a whole number of at least 1 (got 0); correct the config"),
    ],
)
def test_configs_that_mean_nothing_or_another_model_are_refused(changes, message):
    with pytest.raises(CheckpointError) as caught:
        parse_config(LEAST | changes)
    assert str(caught.value) == message
