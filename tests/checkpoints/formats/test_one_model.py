"""One model in every format: the tensors read are those written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Olmo2Config, Olmo2ForCausalLM, OlmoConfig, OlmoeConfig, OlmoeForCausalLM, OlmoForCausalLM

from olmo_dynamics.checkpoints import FolderSource
from olmo_dynamics.checkpoints.formats import find_format
from olmo_dynamics.checkpoints.memory import MemoryCheckpoint
from olmo_dynamics.names import Revision
from tests.checkpoints.formats.conftest import assert_same, open_format, tensors_of
from tests.checkpoints.formats.writing import (
    State,
    adam_state,
    core_experiment,
    native_config,
    save_encoded,
    saved,
    to_core,
    to_native,
    write_bin,
    write_core,
    write_native,
)

TINY = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "pad_token_id": 1, "eos_token_id": 0,
    "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip


def publish(folder: Path, model: Any, dtype: torch.dtype = torch.float32) -> State:
    """Let transformers write a model, and read its files."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.to(dtype).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> State:
    return publish(tmp_path_factory.mktemp("published") / "hf", Olmo2ForCausalLM(Olmo2Config(**TINY)), request.param)


WRITERS: dict[str, Callable[[Path, State], Path]] = {
    "pytorch": lambda folder, state: write_bin(folder, native_config(TINY), to_native(state)),
    "native": lambda folder, state: write_native(folder, native_config(TINY), to_native(state)),
    "encoded": lambda folder, state: write_native(folder, native_config(TINY), to_native(state), encoded=True),
    "core": lambda folder, state: write_core(folder, core_experiment(TINY), to_core(state)),
    "unflattened": lambda folder, state: write_core(folder, core_experiment(TINY), to_core(state), flattened=False),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_all_formats_give_the_same_tensors(writer: str, state: State, tmp_path: Path) -> None:
    found = open_format(WRITERS[writer](tmp_path / "step7", state))
    assert_same(tensors_of(found.weights), state)
    wanted = {**TINY, "model_type": "olmo2"}
    theta = found.config.get("rope_theta") or found.config["rope_parameters"]["rope_theta"]
    assert {**found.config, "rope_theta": theta}.items() >= wanted.items()


@pytest.mark.parametrize("writer", WRITERS)
def test_served_from_memory_they_are_the_same(writer: str, state: State, tmp_path: Path) -> None:
    folder = WRITERS[writer](tmp_path / "step7", state)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    checkpoint = MemoryCheckpoint("memory", Revision("step7"), files)
    found = find_format(checkpoint.read_spans, checkpoint.files)
    assert found is not None
    assert_same(tensors_of(found.weights), state)


@pytest.mark.parametrize("writer", ["native", "encoded", "core", "unflattened"])
def test_optimizer_is_cut_like_the_weights(writer: str, state: State, tmp_path: Path) -> None:
    found = open_format(WRITERS[writer](tmp_path / "step7", state))
    optimizer = found.optimizer
    assert optimizer is not None
    entries = adam_state(state)
    for kind, tensors in optimizer.moments.items():
        assert_same(tensors_of(tensors), {name: entry[kind] for name, entry in entries.items()})
    assert optimizer.steps == dict.fromkeys(state, 7.0)
    [group] = optimizer.groups
    assert set(group["params"]) == set(state)
    assert (group["lr"], group["weight_decay"]) == (0.002, 0.1)
    assert found.trainer["global_step"] == 7


def test_plain_safetensors_are_left_to_their_own_reader(tmp_path: Path) -> None:
    publish(tmp_path / "step7", Olmo2ForCausalLM(Olmo2Config(**TINY)))
    source = FolderSource(tmp_path)
    with source.open(source.find("step7")) as checkpoint:
        assert find_format(checkpoint.read_spans, checkpoint.files) is None


def test_a_fused_tensor_is_read_by_the_rows_asked_for(state: State, tmp_path: Path) -> None:
    folder = write_native(tmp_path / "step7", native_config(TINY), to_native(state))
    found = open_format(folder)
    queries, keys, values = (found.weights.infos[f"model.layers.1.self_attn.{letter}_proj.weight"] for letter in "qkv")
    assert queries.stop == keys.start
    assert keys.stop == values.start
    assert keys.nbytes * 2 == queries.nbytes
    up, gate = (found.weights.infos[f"model.layers.1.mlp.{role}_proj.weight"] for role in ("up", "gate"))
    assert up.stop == gate.start


@pytest.mark.parametrize("tied", [True, False])
def test_olmo_1_has_no_norms_and_may_have_no_head(tied: bool, tmp_path: Path) -> None:
    sizes = {key: value for key, value in TINY.items() if key != "rms_norm_eps"} | {"tie_word_embeddings": tied}
    sizes |= {"num_key_value_heads": 4, "clip_qkv": 8.0}
    state = publish(tmp_path / "hf", OlmoForCausalLM(OlmoConfig(**sizes)))
    config = native_config(
        sizes, n_kv_heads=None, clip_qkv=8.0, layer_norm_type="default", layer_norm_with_affine=False,
        attention_layer_norm=False, norm_after=False, layer_norm_eps=1e-6,
    )  # fmt: skip
    found = open_format(write_bin(tmp_path / "step7", config, to_native(state)))
    assert ("lm_head.weight" in state) is not tied
    assert_same(tensors_of(found.weights), state)
    wanted = {"model_type": "olmo", "clip_qkv": 8.0, "layer_norm_eps": 1e-6, "tie_word_embeddings": tied}
    assert found.config.items() >= (sizes | wanted).items()


def test_olmoes_experts_come_apart(tmp_path: Path) -> None:
    sizes = {**TINY, "num_key_value_heads": 4, "num_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 10}
    state = publish(tmp_path / "hf", OlmoeForCausalLM(OlmoeConfig(**sizes)))
    native: State = {}
    dense = {}
    for name, tensor in state.items():
        if ".experts." not in name:
            dense[name.replace(".post_attention_layernorm", ".post_feedforward_layernorm")
                     .replace(".input_layernorm", ".post_attention_layernorm")] = tensor  # fmt: skip
    native |= to_native(dense)
    for layer in range(2):
        old, new = f"model.layers.{layer}.mlp", f"transformer.blocks.{layer}.ffn"
        experts = [
            {role: state[f"{old}.experts.{e}.{role}_proj.weight"] for role in ("gate", "up", "down")} for e in range(3)
        ]
        native[f"{new}.router.layer.weight"] = state[f"{old}.gate.weight"]
        native[f"{new}.experts.mlp.w1"] = torch.cat([expert["gate"] for expert in experts])
        native[f"{new}.experts.mlp.v1"] = torch.cat([expert["up"] for expert in experts])
        native[f"{new}.experts.mlp.w2"] = torch.cat([expert["down"].T for expert in experts])
    config = native_config(
        sizes,
        block_type="moe",
        norm_after=False,
        moe_num_experts=3,
        moe_top_k=2,
        moe_dropless=True,
        moe_zloss_weight=0.001,
    )
    found = open_format(write_native(tmp_path / "step7", config, native))
    assert_same(tensors_of(found.weights), state)
    wanted = {"model_type": "olmoe", "num_experts": 3, "num_experts_per_tok": 2, "norm_topk_prob": False}
    assert found.config.items() >= wanted.items()
    assert found.optimizer is not None
    assert found.optimizer.moments["exp_avg"].infos.keys() == state.keys()


@pytest.mark.parametrize("turned", [True, False], ids=["transposed", "dropless"])
@pytest.mark.parametrize("deep", [True, False], ids=["3 axes", "flat"])
def test_flex_experts_come_apart(turned: bool, deep: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    experts = [{"gate": torch.randn(10, 16), "up": torch.randn(10, 16), "down": torch.randn(16, 10)} for _ in range(3)]
    router = torch.randn(3, 16)
    core = {"blocks.0.feed_forward_moe.router.weight": router.flatten()}
    for word, role in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
        blocks = [expert[role].T if turned or role == "down" else expert[role] for expert in experts]
        stacked = torch.stack(blocks) if deep else torch.cat(blocks)
        core[f"blocks.0.feed_forward_moe.experts.mlp.{word}"] = stacked.contiguous()
    experiment = core_experiment({**TINY, "num_hidden_layers": 1})
    block = experiment["model"]["block"]
    block["name"] = "moe_reordered_norm"
    block["feed_forward_moe"] = {"name": "dropless", "num_experts": 3, "hidden_size": 10, "router": {"top_k": 2}}
    experiment["model"]["name"] = "moe"
    found = open_format(write_core(tmp_path / "step7", experiment, core))
    wanted = {"model.layers.0.mlp.gate.weight": router}
    for number, expert in enumerate(experts):
        wanted |= {f"model.layers.0.mlp.experts.{number}.{role}_proj.weight": tensor for role, tensor in expert.items()}
    assert_same(tensors_of(found.weights), wanted)
    assert found.config["model_type"] == "flex_olmo"


def test_other_peoples_bins_keep_their_names(tmp_path: Path) -> None:
    weights = {"transformer.h.0.attn.out_proj.weight": torch.randn(4, 6).T, "bias": torch.tensor(True)}
    parts = {"pytorch_model-00001-of-00002.bin": "bias", "pytorch_model-00002-of-00002.bin": next(iter(weights))}
    (tmp_path / "config.json").write_text('{"model_type": "gptj"}')
    index = ", ".join(f'"{name}": "{file}"' for file, name in parts.items())
    (tmp_path / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {{{index}}}}}')
    for file, name in parts.items():
        (tmp_path / file).write_bytes(saved({name: weights[name]}))
    found = open_format(tmp_path)
    assert found.config == {"model_type": "gptj"}
    assert found.weight_files == list(parts)
    info = found.weights.infos["transformer.h.0.attn.out_proj.weight"]
    raw = found.weights.read(info.name)
    np.testing.assert_array_equal(raw.view("<f4").reshape(6, 4), weights[info.name].numpy())  # stored transposed
    assert found.weights.read("bias").tobytes() == b"\1"


def test_safetensors_are_preferred_to_pt(state: State, tmp_path: Path) -> None:
    folder = write_native(tmp_path / "step7", native_config(TINY), to_native(state))
    save_encoded(folder / "model.safetensors", to_native({name: tensor + 1 for name, tensor in state.items()}))
    found = open_format(folder)
    assert found.weight_files == ["model.safetensors"]
    assert_same(tensors_of(found.weights), {name: tensor + 1 for name, tensor in state.items()})
