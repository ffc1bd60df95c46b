"""Reading and writing config.json."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from olmo_dynamics.errors import CheckpointError, ConfigError, UnknownModelError
from olmo_dynamics.model import (
    MODEL_TYPES,
    DynamicScaling,
    Experts,
    LinearScaling,
    ModelConfig,
    Yarn,
    build_model,
    family_of,
    parse_config,
    to_config_json,
    unknown_keys,
)
from olmo_dynamics.model.config_json import _READ, known_keys
from tests.model.drawing import configs, distance, random_model, random_tokens, tiny_config

LEAST = {
    "model_type": "olmo2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}


def test_absent_keys_default_as_in_transformers():
    config = parse_config(LEAST)
    theirs = transformers.Olmo2Config(**LEAST)
    assert config == ModelConfig(
        hidden_size=64,
        layers=2,
        heads=4,
        kv_heads=theirs.num_key_value_heads,
        head_dim=16,
        intermediate_size=128,
        vocab_size=100,
        max_positions=theirs.max_position_embeddings,
        norm_eps=theirs.rms_norm_eps,
        rope_theta=theirs.rope_parameters["rope_theta"],
        tied_embeddings=theirs.tie_word_embeddings,
        pad_token_id=theirs.pad_token_id,
        bos_token_id=theirs.bos_token_id,
        eos_token_id=theirs.eos_token_id,
    )


def test_the_config_of_a_published_model_is_read():
    config = parse_config(
        {
            "architectures": ["Olmo2ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "eos_token_id": 100257,
            "hidden_act": "silu",
            "hidden_size": 5120,
            "initializer_range": 0.02,
            "intermediate_size": 27648,
            "max_position_embeddings": 4096,
            "model_type": "olmo2",
            "num_attention_heads": 40,
            "num_hidden_layers": 64,
            "num_key_value_heads": 8,
            "pad_token_id": 100277,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 500000,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "use_cache": False,
            "vocab_size": 100352,
        }
    )
    assert (config.query_width, config.kv_width, config.rope_theta) == (5120, 1024, 500000)
    assert (config.pad_token_id, config.eos_token_id) == (100277, 100257)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5}},
        {"rope_parameters": {"rope_theta": 5e5}, "rope_theta": 500000},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 500000},
    ],
)
def test_rope_is_read_in_every_spelling(rope):
    assert parse_config(LEAST | rope).rope_theta == 5e5


@settings(max_examples=40)
@given(config=configs(), pad=st.sampled_from([None, 0, 3]), eos=st.sampled_from([None, 5, (5, 6)]))
def test_written_configs_are_read_back(config, pad, eos):
    written = to_config_json(config) | {
        "pad_token_id": pad,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
    }
    read = parse_config(json.loads(json.dumps(written)))
    assert to_config_json(read) == written
    assert replace(read, pad_token_id=None, eos_token_id=None) == config
    assert hash(read) == hash(parse_config(written))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("olmo", {"tied_embeddings": True}),
        ("olmo2", {"hidden_size": 40, "eos_token_id": (3, 4)}),
        ("olmo2", {"yarn": Yarn(factor=4.0, original_positions=16)}),
        ("olmo3", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"scaling": LinearScaling(factor=4.0), "tied_embeddings": True}),
        ("llama", {"scaling": DynamicScaling(factor=4.0), "max_positions": 4}),
        ("gpt_neox", {"attention_bias": False, "rotary_dim": 10}),
        ("gpt_neox", {"parallel_residual": False, "scaling": LinearScaling(factor=2.0), "activation": "gelu_new"}),
        ("olmoe", {"experts": Experts(count=4, per_token=3, renormalized=True), "clip_qkv": 0.5}),
    ],
)
def test_transformers_loads_what_we_write(tmp_path, family, changes):
    model = random_model(tiny_config(family, **changes))
    (tmp_path / "config.json").write_text(json.dumps(to_config_json(model.config, dtype="float32")))
    weights = family_of(family).publish(model.config, model.state_dict())
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float32
    assert parse_config(theirs.config.to_dict()) == model.config
    token_ids = random_tokens(model.config, 2, 7)
    with torch.no_grad():
        assert distance(model(token_ids), theirs(token_ids).logits) <= 1e-5


@pytest.mark.parametrize("model_type", ["qwen3", "olmo_hybrid", None])
def test_unknown_model_types_can_still_be_recorded(model_type):
    message = (
        rf"^model_type must be one of {', '.join(MODEL_TYPES)} to run a forward pass \(got {model_type!r}\); "
        r"record parameters only, which needs no forward pass$"
    )
    with pytest.raises(UnknownModelError, match=message):
        parse_config(LEAST | {"model_type": model_type})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu' for the forward pass implemented here (got 'gelu')"),
        ({"attention_bias": True}, "attention_bias must be False for the forward pass implemented here (got True)"),
        ({"clip_qkv": 8.0}, "clip_qkv must be absent for the forward pass implemented here (got 8.0)"),
        ({"sliding_window": 4096}, "sliding_window must be absent for the forward pass implemented here (got 4096)"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types must be 'full_attention' only for the forward pass implemented here (got ['sliding_attention'])",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_scaling must be of rope_type 'default' or 'yarn' for the forward pass implemented here "
            "(got {'rope_type': 'llama3', 'factor': 8.0})",
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "rope_parameters must be of rope_type 'default' or 'yarn' for the forward pass implemented here "
            "(got {'rope_type': 'linear', 'rope_theta': 10000.0, 'factor': 2.0})",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters must be of rope_type 'default' or 'yarn' for the forward pass implemented here "
            "(got {'full_attention': {'rope_type': 'default'}})",
        ),
        ({"rope_theta": None}, "rope_theta must be a number for the forward pass implemented here (got None)"),
        ({"num_experts": 8}, "num_experts must be 0 or 1 for the forward pass implemented here (got 8)"),
        (
            {"quantization_config": {"bits": 4}},
            "quantization_config must be absent for the forward pass implemented here (got {'bits': 4})",
        ),
        (
            {"attn_logit_softcapping": 50.0},
            "attn_logit_softcapping must be absent for the forward pass implemented here (got 50.0)",
        ),
    ],
)
def test_other_computations_are_refused(changes, message):
    with pytest.raises(CheckpointError) as caught:
        parse_config(LEAST | changes)
    assert str(caught.value) == f"{message}; record parameters only"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": None, "vocab_size": None},
            "config.json must give hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size "
            "(missing: hidden_size, vocab_size); add them",
        ),
        ({"vocab_size": 0}, "vocab_size must be a whole number of at least 1 (got 0); correct the config"),
        ({"hidden_size": "64"}, "hidden_size must be a whole number of at least 1 (got '64'); correct the config"),
        (
            {"num_attention_heads": 0},
            "num_attention_heads must be a whole number of at least 1 (got 0); correct the config",
        ),
        ({"head_dim": 16.0}, "head_dim must be a whole number of at least 1 (got 16.0); correct the config"),
        (
            {"num_hidden_layers": True},
            "num_hidden_layers must be a whole number of at least 1 (got True); correct the config",
        ),
        (
            {"hidden_size": 66},
            "hidden_size must be a multiple of num_attention_heads if head_dim is absent (got 66 and 4); correct the config",
        ),
        ({"num_key_value_heads": 3}, "heads must be a multiple of kv_heads (got 4 and 3); correct the config"),
        ({"head_dim": 5}, "head_dim must be even, because RoPE turns pairs (got 5); correct the config"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0 (got 0); correct the config"),
        ({"rope_theta": "5e5"}, "rope_theta must be a number above 0 (got '5e5'); correct the config"),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            "rope_theta must be one number (got 500000.0 in rope_parameters and 10000.0 outside it); remove one",
        ),
        (
            {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 5e5}},
            "rope_parameters and rope_scaling must not be given together (got {'rope_theta': 500000.0} and "
            "{'type': 'default'}); remove one",
        ),
        (
            {"model_type": "olmo", "clip_qkv": 0},
            "clip_qkv must be a number above 0 (got 0); correct the config",
        ),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a number above 0 (got inf); correct the config"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(CheckpointError) as caught:
        parse_config(LEAST | changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (
            "olmo2",
            {"clip_qkv": 8.0},
            "clip_qkv must be left out for olmo2, which does not have it (got 8.0); correct the config",
        ),
        (
            "olmo",
            {"sliding_layers": (0,)},
            "sliding_layers must be left out for olmo, which does not have it (got (0,)); correct the config",
        ),
        ("olmoe", {"experts": None}, "experts must be given for olmoe (got None); correct the config"),
        ("olmo3", {"sliding_layers": (2, 3)}, "sliding_layers must be layers of 0 to 2 (got [3]); correct the config"),
    ],
)
def test_parts_that_a_family_does_not_have_are_refused(family, changes, message):
    with pytest.raises(CheckpointError) as caught:
        tiny_config(family, **changes)
    assert str(caught.value) == message


def test_a_flat_yarn_stretches_every_layer_of_other_families():
    scaling = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": None}
    config = parse_config(LEAST | {"rope_scaling": scaling | {"original_max_position_embeddings": 16}})
    assert config.yarn == Yarn(factor=8.0, original_positions=16)
    del scaling["original_max_position_embeddings"]
    assert parse_config(LEAST | {"rope_scaling": scaling}).yarn == Yarn(factor=8.0, original_positions=2048)


def test_unknown_keys_are_listed():
    written = to_config_json(tiny_config("olmoe"), dtype="bfloat16") | {
        "use_cache": False,
        "frobnicate": 3,
        "alpha": None,
    }
    assert unknown_keys(written) == ("alpha", "frobnicate")
    assert parse_config(written).experts == Experts(count=5, per_token=2)
    for family in ("olmo", "olmo2", "olmo3"):
        assert unknown_keys(transformers.AutoConfig.for_model(**to_config_json(tiny_config(family))).to_dict()) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 2**32}, "num_hidden_layers must be at most 10000 (got 4294967296); correct the config"),
        ({"vocab_size": 2**31}, "vocab_size must be at most 268435456 (got 2147483648); correct the config"),
        ({"intermediate_size": -1}, "intermediate_size must be a whole number of at least 1 (got -1); correct the config"),
        ({"head_dim": 2**27}, "query_width must be at most 268435456 (got 536870912); correct the config"),
        ({"layer_types": [["a"]]}, "layer_types must be a list of text, one for each layer (got [['a']]); correct the config"),
        ({"layer_types": "full"}, "layer_types must be a list of text, one for each layer (got 'full'); correct the config"),
        (
            {"rope_parameters": {"full_attention": 3}},
            "rope_parameters.full_attention must be an object (got 3); correct the config",
        ),
        ({"rope_scaling": [2.0]}, "rope_scaling must be an object (got [2.0]); correct the config"),
        (
            {"rope_scaling": {"rope_type": ["yarn"]}},
            "rope_scaling.rope_type must be text (got ['yarn']); correct the config",
        ),
        ({"rope_theta": float("nan")}, "rope_theta must be a number above 0 (got nan); correct the config"),
        ({"rope_theta": 10**400}, f"rope_theta must be from 1e-30 to 1e+30 (got 1{'0' * 199}…); correct the config"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false (got 'no'); correct the config"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id must be a token id or a list of them (got [1, '2']); correct the config"),
        ({"hidden_act": "\ud800"}, "hidden_act must be 'silu' for the forward pass implemented here (got '\\ud800'); "
         "record parameters only"),
    ],
)  # fmt: skip
def test_values_that_no_config_holds_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(LEAST | changes)
    assert str(caught.value) == message


def test_a_model_larger_than_the_weights_is_refused_and_never_built():
    two = {f"model.layers.{layer}.{name}": None for layer in range(2) for name in ("a", "b")}
    assert parse_config(LEAST, two).layers == 2
    with pytest.raises(ConfigError) as caught:
        parse_config(LEAST | {"num_hidden_layers": 65}, two)
    assert str(caught.value) == (
        "num_hidden_layers must be the 2 layers that the weights hold (got 65); correct the config"
    )
    with pytest.raises(ConfigError) as caught:
        parse_config(LEAST | {"model_type": "olmoe", "num_experts": 64}, two)
    assert str(caught.value) == (
        "num_experts must be no more than the weights hold, which are 4 tensors (got 64 in each of 2 layers); "
        "correct the config"
    )


HELD = {f"model.layers.{layer}.self_attn.q_proj.weight": None for layer in range(12)}
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-4, 200),
    st.floats(),
    st.booleans(),
    st.sampled_from([10**400, 2.0, 1e308]),
)
TEXT = st.one_of(st.text(max_size=8), st.sampled_from(["\ud800", "a" * 5000, "yarn", "full_attention", "olmo3"]))
JSON = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)
ROPE_WORDS = ("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "truncate")
ROPE = st.dictionaries(st.sampled_from((*ROPE_WORDS, "full_attention", "sliding_attention")), JSON, max_size=4)


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from(MODEL_TYPES),
    changes=st.dictionaries(
        st.sampled_from(sorted(_READ.union(*map(known_keys, MODEL_TYPES)))),
        st.one_of(JSON, ROPE),
        min_size=1,
        max_size=3,
    ),
)
def test_any_json_is_a_config_or_the_one_error(family, changes):
    given_config = LEAST | {"model_type": family, "num_experts": 4 if family == "olmoe" else None} | changes
    try:
        config = parse_config(given_config, HELD)
    except (ConfigError, UnknownModelError) as error:
        text = str(error)
        assert "\n" not in text and len(text) < 1000 and text.isprintable()
        return
    assert config.layers <= 64
    build_model(config).ropes(4)
    assert parse_config(to_config_json(config)) == config
