"""Configs of other trainers: their translations, and refusals."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, Olmo3Config

from olmo_dynamics.checkpoints.formats import canonical_config, core_config
from olmo_dynamics.checkpoints.formats.canonical_names import ModelShape
from olmo_dynamics.checkpoints.formats.core_config import layer_windows
from olmo_dynamics.errors import CheckpointError
from tests.checkpoints.formats.test_one_model import TINY
from tests.checkpoints.formats.writing import core_experiment, native_config


@pytest.fixture
def models(shared: Path) -> dict[str, Any]:
    path = shared / "reference" / "olmo_models.json"
    if not path.is_file():
        pytest.skip("olmo_models.json is not among the real inputs")
    found: dict[str, Any] = json.loads(path.read_text())["models"]
    return found


# what the published runs' own configs say, where it is not the trainer's default
OLMO_1B = {
    "d_model": 2048,
    "n_heads": 16,
    "n_layers": 16,
    "mlp_ratio": 8,
    "weight_tying": True,
    "max_sequence_length": 2048,
}
OLMO_7B = {"d_model": 4096, "n_heads": 32, "n_layers": 32, "mlp_ratio": 4, "mlp_hidden_size": 22016, "weight_tying": False,
           "max_sequence_length": 2048}  # fmt: skip
OLMO_1 = {"layer_norm_type": "default", "layer_norm_with_affine": False, "attention_layer_norm": False, "rope": True,
          "include_bias": False, "bias_for_layer_norm": False, "vocab_size": 50280, "embedding_size": 50304,
          "eos_token_id": 50279, "pad_token_id": 1, "rope_full_precision": True, "alibi": False}  # fmt: skip


@pytest.mark.parametrize(("name", "native"), [("allenai/OLMo-1B", OLMO_1B), ("allenai/OLMo-7B", OLMO_7B)])
def test_published_sizes_of_olmo_1(name: str, native: dict[str, Any], models: dict[str, Any]) -> None:
    published = models[name]
    config = canonical_config(OLMO_1 | native)
    assert config["model_type"] == "olmo"
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
                "vocab_size", "tie_word_embeddings", "clip_qkv", "max_position_embeddings", "rope_theta"):  # fmt: skip
        assert config[key] == published[key], key


def test_numbers_that_yaml_reads_as_text() -> None:
    config = canonical_config(native_config(TINY, layer_norm_eps="1e-6", rope_theta="5e5"))
    assert (config["rms_norm_eps"], config["rope_theta"]) == (1e-6, 5e5)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"alibi": True}, "the model config: alibi must be False (got True); this computation is not implemented"),
        ({"rope": None}, "the model config: rope must be True (got None); this computation is not implemented"),
        ({"include_bias": True}, "the model config: include_bias must be False (got True); this computation is not implemented"),
        ({"activation_type": "gelu"},
         "the model config: activation_type must be 'swiglu' (got 'gelu'); this computation is not implemented"),
        ({"new_attention": "fast"},
         "the model config: unknown field new_attention, with value 'fast', may change the computation; remove it if it "
         "does not"),
        ({"d_model": None}, "the model config: d_model must be a whole number above 0 (got None); correct the config"),
        ({"n_heads": 3}, "the model config: d_model must be a multiple of n_heads (got 16 and 3)"),
        ({"n_kv_heads": 3}, "the model config: n_heads must be a multiple of n_kv_heads (got 4 and 3)"),
        ({"mlp_hidden_size": 7}, "the model config: mlp_hidden_size must be even, as it holds gate and up (got 7)"),
        ({"rope_theta": "big"}, "the model config: rope_theta must be a number (got 'big'); correct the config"),
        ({"block_type": "llama"}, "the model config: block_type must be 'sequential' or 'moe' (got 'llama')"),
        ({"attention_layer_norm": False},
         "the model config: norms of type 'rms' (affine True, biased False, on queries False, after sublayers True, experts "
         "False) do not occur in OLMo, its ladder, OLMo 2 or OLMoE; this computation is not implemented"),
        ({"bias_for_layer_norm": True},
         "the model config: norms of type 'rms' (affine True, biased True, on queries True, after sublayers True, experts "
         "False) do not occur in OLMo, its ladder, OLMo 2 or OLMoE; this computation is not implemented"),
    ],
)  # fmt: skip
def test_native_configs_that_are_refused(others: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        canonical_config(native_config(TINY) | others)
    assert str(caught.value) == message


def test_an_unknown_field_that_is_off_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        canonical_config(native_config(TINY, new_attention=None))
    assert caplog.messages == ["the model config: unknown field new_attention is off, and ignored"]


def test_multi_query_attention_has_one_key_head() -> None:
    assert (
        canonical_config(native_config(TINY, n_kv_heads=None, multi_query_attention=True))["num_key_value_heads"] == 1
    )


YARN = {
    "factor": 8.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "old_context_len": 8192,
    "_CLASS_": "olmo_core.nn.rope.YaRNRoPEScalingConfig",
}


def sliding_experiment(**sliding: Any) -> dict[str, Any]:
    experiment = core_experiment({**TINY, "num_hidden_layers": 8})
    windows = {"pattern": [5, 5, 5, -1], "force_full_attention_on_first_layer": False} | sliding
    experiment["model"]["block"]["attention"]["sliding_window"] = windows
    return experiment


def test_a_window_makes_an_olmo_3_that_transformers_understands(tmp_path: Path) -> None:
    config = core_config(sliding_experiment())
    assert config["model_type"] == "olmo3"
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(found, Olmo3Config)
    assert found.layer_types == (["sliding_attention"] * 3 + ["full_attention"]) * 2
    assert found.sliding_window == 5
    assert {kind: rope["rope_theta"] for kind, rope in found.rope_parameters.items()} == {
        "full_attention": 10000, "sliding_attention": 10000,
    }  # fmt: skip


def test_yarn_lands_on_full_layers_only() -> None:
    experiment = sliding_experiment()
    block = json.loads(json.dumps(experiment["model"]["block"]))
    block["attention"]["rope"]["scaling"] = YARN
    experiment["model"]["block_overrides"] = {"3": block, "7": block}
    ropes = core_config(experiment)["rope_parameters"]
    assert ropes["sliding_attention"] == {"rope_type": "default", "rope_theta": 10000}
    assert ropes["full_attention"] == {
        "rope_type": "yarn", "rope_theta": 10000, "factor": 8.0, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 8192, "attention_factor": pytest.approx(1.2079441541679836, rel=1e-15),
    }  # fmt: skip
    experiment["model"]["block_overrides"] = {"3": block}
    with pytest.raises(CheckpointError, match=r"RoPE must be scaled alike on all full layers, and on no sliding one$"):
        core_config(experiment)
    experiment["model"]["block_overrides"] = {"3": block | {"feed_forward": {"hidden_size": 5}}, "7": block}
    with pytest.raises(CheckpointError, match=r"layer 3 may differ from the others only in RoPE scaling$"):
        core_config(experiment)


@pytest.mark.parametrize(
    ("sliding", "wanted"),
    [
        ({"pattern": [2, -1], "force_full_attention_on_first_layer": True}, [None, 2, None, 2, None]),
        ({"pattern": [2], "force_full_attention_on_first_layer": False}, [2, 2, 2, 2, None]),
        ({"pattern": [2], "force_full_attention_on_first_layer": False, "force_full_attention_on_last_layer": False}, [2] * 5),
        (None, [None] * 5),
    ],
)  # fmt: skip
def test_windows_by_layer(sliding: dict[str, Any] | None, wanted: list[int | None]) -> None:
    assert layer_windows({"sliding_window": sliding}, 5) == wanted


def _changed(path: str, value: Any) -> dict[str, Any]:
    experiment = sliding_experiment()
    *steps, last = path.split(".")
    fields = experiment
    for step in steps:
        fields = fields[step]
    fields[last] = value
    return experiment


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", None, "config.json: model must be given as fields (got None); correct the config"),
        ("model.block.name", "default", "config.json: block name must be reordered_norm or moe_reordered_norm (got 'default')"),
        ("model.block.attention.use_head_qk_norm", True,
         "config.json, model.block, attention: use_head_qk_norm must be False (got True); this computation is not implemented"),
        ("model.block.attention.rope.name", "complex",
         "config.json, model.block, rope: name must be 'default' or 'fused' (got 'complex'); this computation is "
         "not implemented"),
        ("model.block.attention.qk_norm", None, "config.json: qk_norm must be given as fields (got None); correct the config"),
        ("model.new_thing", 3,
         "config.json, model: unknown field new_thing, with value 3, may change the computation; remove it if it does not"),
        ("model.block.attention.sliding_window.pattern", [0],
         "config.json: a sliding window's pattern must be a list of widths or -1 (got [0])"),
        ("model.block.attention.sliding_window.pattern", [3, 4], "config.json: sliding windows must have one width (got [3, 4])"),
        ("model.lm_head.layer_norm", {"name": "rms", "eps": 0.5}, "config.json: all norms must have one eps (got [1e-06, 0.5])"),
        ("model.lm_head.layer_norm", {"name": "layer"},
         "config.json: norms must be rms with a weight and no bias (got {'name': 'layer'})"),
        ("model.block.feed_forward.activation", "gelu", "config.json: feed_forward must have no bias, and silu as activation"),
    ],
)  # fmt: skip
def test_core_configs_that_are_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        core_config(_changed(path, value))
    assert str(caught.value) == message


JUNK = (None, True, -1, 0, 10**12, 1.5, float("inf"), "x", [], {}, [[]], {"a": 1})


def _leaves(fields: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = fields.items() if isinstance(fields, dict) else enumerate(fields) if isinstance(fields, list) else ()
    return [path, *(leaf for key, value in inner for leaf in _leaves(value, (*path, key)))]


@pytest.mark.parametrize("kind", ["native", "core"])
def test_junk_in_any_field_is_taken_or_refused_in_one_line(kind: str) -> None:
    block = sliding_experiment()["model"]["block"]
    scaled = {**block, "attention": {**block["attention"], "rope": {**block["attention"]["rope"], "scaling": YARN}}}
    core = sliding_experiment()
    core["model"]["block_overrides"] = {"3": scaled, "7": scaled}
    sound = {"native": native_config(TINY), "core": core}[kind]
    refused = 0
    for path in _leaves(sound)[1:]:
        for junk in JUNK:
            fields = copy.deepcopy(sound)
            place = fields
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = junk
            try:
                config = {"native": canonical_config, "core": core_config}[kind](fields)
            except CheckpointError as problem:
                refused += "\n" not in str(problem)
            else:
                ModelShape.of(config)
    assert refused > 100
