"""GPT-NeoX's tensors: names of every age, queries, keys and values cut head by head, and buffers left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from olmo_dynamics.checkpoints import Checkpoint, FolderSource
from olmo_dynamics.checkpoints.formats.families.neox_names import published_name
from olmo_dynamics.model import to_tensor
from olmo_dynamics.names import Revision
from tests.checkpoints.formats.writing import saved

HEADS, SIZE = 3, 4
CONFIG = {
    "hidden_size": HEADS * SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 20,
    "vocab_size": 32,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A revision as transformers writes it, in fp16 as Pythia's are."""
    folder = tmp_path_factory.mktemp("neox") / "step1"
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**CONFIG))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    model.half().save_pretrained(folder)
    return folder


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    raw = checkpoint.read_many(list(checkpoint.tensors.values()))
    return {name: to_tensor(raw[name], info) for name, info in checkpoint.tensors.items()}


def open_folder(folder: Path) -> Checkpoint:
    return FolderSource(folder.parent).open(Revision(folder.name))


def expected(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Canonical tensors, by transformers' own view of the fused ones."""
    found = {}
    for layer in range(2):
        theirs, ours = f"gpt_neox.layers.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            fused = stored[f"{theirs}attention.query_key_value.{kind}"]
            parts = fused.view(HEADS, 3 * SIZE, *fused.shape[1:]).chunk(3, dim=1)
            for role, part in zip("qkv", parts, strict=True):
                found[f"{ours}self_attn.{role}_proj.{kind}"] = part.flatten(0, 1)
            found |= {
                f"{ours}self_attn.o_proj.{kind}": stored[f"{theirs}attention.dense.{kind}"],
                f"{ours}mlp.up_proj.{kind}": stored[f"{theirs}mlp.dense_h_to_4h.{kind}"],
                f"{ours}mlp.down_proj.{kind}": stored[f"{theirs}mlp.dense_4h_to_h.{kind}"],
                f"{ours}input_layernorm.{kind}": stored[f"{theirs}input_layernorm.{kind}"],
                f"{ours}post_attention_layernorm.{kind}": stored[f"{theirs}post_attention_layernorm.{kind}"],
                f"model.norm.{kind}": stored[f"gpt_neox.final_layer_norm.{kind}"],
            }
    head = stored["lm_head.weight"] if "lm_head.weight" in stored else stored["embed_out.weight"]
    return found | {"model.embed_tokens.weight": stored["gpt_neox.embed_in.weight"], "lm_head.weight": head}


def as_pythia(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of Pythia's files: an older name of the head, and masks and frequencies beside the weights."""
    tensors = {
        ("embed_out.weight" if "embed_out" in name or "lm_head" in name else name): t for name, t in stored.items()
    }
    for layer in range(2):
        at = f"gpt_neox.layers.{layer}.attention."
        tensors[at + "bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        tensors[at + "masked_bias"] = torch.tensor(-1e9)
        tensors[at + "rotary_emb.inv_freq"] = torch.ones(2)
    return tensors


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_fused_tensors_are_cut_head_by_head(published: Path) -> None:
    stored = load_file(published / "model.safetensors")
    with open_folder(published) as checkpoint:
        assert_same(tensors_of(checkpoint), expected(stored))
        assert set(checkpoint.published_names.values()) == set(stored)
        names = checkpoint.published_names
        fused = "gpt_neox.layers.1.attention.query_key_value.bias"
        assert [name for name in names if names[name] == fused] == [
            f"model.layers.1.self_attn.{role}_proj.bias" for role in "qkv"
        ]
        assert {published_name(name) for name in names} - {"lm_head.weight"} == set(stored) - {
            "lm_head.weight",
            "embed_out.weight",
        }
        key = checkpoint.tensors["model.layers.0.self_attn.k_proj.weight"]
        [rows] = checkpoint.read_parts([key.rows(3, 7)])
        assert torch.equal(to_tensor(rows, key.rows(3, 7)), expected(stored)[key.name][3:7])


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards"])
def test_pythias_files_hold_buffers_and_an_older_name_of_the_head(form: str, published: Path, tmp_path: Path) -> None:
    tensors = as_pythia(load_file(published / "model.safetensors"))
    folder = tmp_path / "step1"
    folder.mkdir()
    (folder / "config.json").write_text((published / "config.json").read_text())
    if form == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif form == "bin":
        (folder / "pytorch_model.bin").write_bytes(saved(tensors))
    else:
        files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
        homes = {name: files[place % 2] for place, name in enumerate(tensors)}
        for file in files:
            (folder / file).write_bytes(saved({name: tensors[name] for name in tensors if homes[name] == file}))
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": homes}))
    with open_folder(folder) as checkpoint:
        assert_same(tensors_of(checkpoint), expected(tensors))
        assert checkpoint.published_names["lm_head.weight"] == "embed_out.weight"


def test_without_heads_to_cut_by_a_fused_tensor_is_as_it_is_stored(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step1"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox", "num_attention_heads": 5}))
    (folder / "model.safetensors").write_bytes((published / "model.safetensors").read_bytes())
    with open_folder(folder) as checkpoint:
        assert checkpoint.tensors["gpt_neox.layers.0.attention.query_key_value.weight"].shape == (36, 12)
        assert checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].shape == (20, 12)
