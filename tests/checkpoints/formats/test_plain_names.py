"""Names in Hugging Face files: canonical where the place in the language model is known, verbatim elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from olmo_dynamics.checkpoints.folder import FolderCheckpoint
from olmo_dynamics.checkpoints.formats.plain_names import canonical_names
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import Revision
from tests.checkpoints.formats.conftest import TORCH_DTYPES, assert_same
from tests.checkpoints.formats.test_one_model import TINY
from tests.checkpoints.formats.writing import State, native_config, to_native, write_bin

OLMO2 = {"model_type": "olmo2"}
TRUNK = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.11.self_attn.q_norm.weight",
         "model.norm.weight"]  # fmt: skip
NAMES = [*TRUNK, "lm_head.weight"]


def tensors_of(folder: Path) -> State:
    """All tensors of a checkpoint by name, read one by one."""
    with FolderCheckpoint("run", Revision("step7"), folder) as checkpoint:
        raws = {name: checkpoint.read(info) for name, info in checkpoint.tensors.items()}
        return {
            name: torch.from_numpy(np.array(raws[name])).view(TORCH_DTYPES[info.dtype]).reshape(info.shape)
            for name, info in checkpoint.tensors.items()
        }


def state(layers: int = 2) -> State:
    """Dense OLMo 2 tensors of the sizes of `TINY`, each of other values."""
    torch.manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32, 16), "model.norm.weight": (16,)}
    for layer in range(layers):
        for part, shape in {"self_attn.q_proj": (16, 16), "self_attn.k_proj": (8, 16), "self_attn.v_proj": (8, 16),
                            "self_attn.o_proj": (16, 16), "self_attn.q_norm": (16,), "self_attn.k_norm": (8,),
                            "mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16), "mlp.down_proj": (16, 24),
                            "post_attention_layernorm": (16,), "post_feedforward_layernorm": (16,)}.items():  # fmt: skip
            shapes[f"model.layers.{layer}.{part}.weight"] = shape
    return {name: torch.randn(shape) for name, shape in (shapes | {"lm_head.weight": (32, 16)}).items()}


def write_safetensors(folder: Path, words: dict[str, Any] | None, tensors: State, *, shards: int = 1) -> Path:
    """A checkpoint as one file, or as several with an index."""
    folder.mkdir(parents=True)
    if words is not None:
        (folder / "config.json").write_text(json.dumps(words))
    if shards == 1:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
        return folder
    homes = {}
    for shard in range(shards):
        part = {name: tensor.contiguous() for name, tensor in list(tensors.items())[shard::shards]}
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file)
        homes |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_hf_olmo_safetensors_are_the_same_tensors_as_bin(shards: int, tied: bool, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in state().items() if not (tied and name == "lm_head.weight")}
    words = native_config({**TINY, "tie_word_embeddings": tied})
    native = {f"model.{name}": tensor for name, tensor in to_native(tensors).items()}
    plain = write_safetensors(tmp_path / "plain", {"model_type": "hf_olmo", **words}, native, shards=shards)
    bin_folder = write_bin(tmp_path / "bin", words, to_native(tensors))
    assert_same(tensors_of(plain), tensors)
    with (
        FolderCheckpoint("a", Revision("step7"), plain) as one,
        FolderCheckpoint("b", Revision("step7"), bin_folder) as other,
    ):
        assert one.config == other.config
        assert one.format == "safetensors"
        keys = one.tensors["model.layers.1.self_attn.k_proj.weight"]
        assert (keys.nbytes, keys.file in one.files) == (512, True)  # its rows alone are read
        assert keys.start == one.tensors["model.layers.1.self_attn.q_proj.weight"].stop


def test_stacked_experts_of_hf_olmo_come_apart(tmp_path: Path) -> None:
    torch.manual_seed(2)
    experts = [{"gate": torch.randn(10, 16), "up": torch.randn(10, 16), "down": torch.randn(16, 10)} for _ in range(3)]
    mlp = "model.transformer.blocks.0.ffn.experts.mlp"
    native = {f"{mlp}.{word}": torch.cat([expert[role] for expert in experts]) for word, role in
              (("w1", "gate"), ("v1", "up"))} | {f"{mlp}.w2": torch.cat([expert["down"].T for expert in experts])}  # fmt: skip
    words = native_config(
        {**TINY, "intermediate_size": 10}, block_type="moe", norm_after=False, moe_num_experts=3, moe_top_k=2
    )
    assert_same(
        tensors_of(write_safetensors(tmp_path / "step7", words, native)),
        {
            f"model.layers.0.mlp.experts.{number}.{role}_proj.weight": tensor
            for number, expert in enumerate(experts)
            for role, tensor in expert.items()
        },
    )


def test_names_of_a_computation_that_is_not_implemented(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in state(1).items() if "norm" not in name}
    native = {f"model.{name}": tensor for name, tensor in to_native(tensors).items()}
    native["model.transformer.blocks.0.att_proj.bias"] = torch.arange(32.0)
    native["model.transformer.blocks.0.attn_norm.weight"] = torch.ones(16)
    words = native_config(TINY, alibi=True, include_bias=True, layer_norm_type="default", norm_after=False)
    folder = write_safetensors(tmp_path / "step7", words, native)
    bias, prefix = torch.arange(32.0), "model.layers.0.self_attn"
    added = {
        f"{prefix}.q_proj.bias": bias[:16],
        f"{prefix}.k_proj.bias": bias[16:24],
        f"{prefix}.v_proj.bias": bias[24:],
    }
    assert_same(tensors_of(folder), tensors | added | {"model.layers.0.input_layernorm.weight": torch.ones(16)})
    with (
        FolderCheckpoint("run", Revision("step7"), folder) as checkpoint,
        pytest.raises(CheckpointError, match=r"^run@step7: the model config: alibi must be False \(got True\); "),
    ):
        _ = checkpoint.config


@pytest.mark.parametrize(
    "words", [None, {"d_model": 20, "n_heads": 4, "n_layers": 2}], ids=["no config", "other sizes"]
)
def test_fused_tensors_of_unknown_sizes_stay_whole(words: dict[str, Any] | None, tmp_path: Path) -> None:
    native = {f"model.{name}": tensor for name, tensor in to_native(state(1)).items()}
    found = tensors_of(write_safetensors(tmp_path / "step7", words, native))
    fused = {f"model.transformer.blocks.0.{part}_proj.weight" for part in ("att", "ff")}
    assert fused < set(found)
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight", "lm_head.weight"} < set(found)
    assert all(torch.equal(found[name], native[name]) for name in fused)


def named(names: list[str], words: dict[str, Any]) -> list[str]:
    return list(canonical_names(names, lambda: words).values())


@given(
    wrapper=st.sampled_from(["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]),
    depths=st.lists(st.integers(0, 4), min_size=len(NAMES), max_size=len(NAMES)),
    outside=st.booleans(),
)
def test_wrappers_leave_no_trace(wrapper: str, depths: list[int], outside: bool) -> None:
    wrapped = []
    for name, depth in zip(NAMES, depths, strict=True):
        words = name.split(".")
        at = min(depth, len(words) - 1)
        wrapped.append(("module." if outside else "") + ".".join([*words[:at], wrapper + words[at], *words[at + 1 :]]))
    assert named(wrapped, {"model_type": "anything"}) == NAMES


@pytest.mark.parametrize("prefix", ["", "transformer.", "backbone.", "model.model.", "policy.model."])
def test_every_class_has_the_names_of_the_language_model(prefix: str) -> None:
    outer = prefix.removesuffix("model.") if prefix.endswith(".model.") else ""
    stored = [prefix + name.removeprefix("model.") for name in TRUNK]
    assert named([*stored, f"{outer}score.weight"], OLMO2) == [*TRUNK, "score.weight"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["layers.0.mlp.up_proj.weight", "embed_tokens.weight"], {"model_type": "qwen3"}),
        (["layers.0.mlp.up_proj.weight", "embed_tokens.weight"], {}),
        (["layers.0.a.weight", "_orig_mod.layers.0.a.weight"], OLMO2),  # two of the same name
        (["encoder.layers.0.a.weight", "decoder.layers.0.a.weight"], OLMO2),
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], OLMO2),
        (["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"], {"model_type": "gpt2"}),
        ([*TRUNK[1:], "lm_head.weight"], OLMO2),  # not tied: the embedding is missing
    ],
)
def test_other_names_are_left_as_they_are(names: list[str], words: dict[str, Any]) -> None:
    assert named(names, words) == names


def test_canonical_names_need_no_config() -> None:
    def unread() -> dict[str, Any]:
        raise AssertionError("config.json was read")

    assert list(canonical_names(NAMES, unread).values()) == NAMES


@pytest.mark.parametrize("writer", ["safetensors", "bin", "native"])
def test_tied_weights_stored_as_the_head_alone_are_the_embedding(writer: str, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in state(1).items() if name != "model.embed_tokens.weight"}
    if writer == "safetensors":
        folder = write_safetensors(tmp_path / "step7", {**TINY, **OLMO2, "tie_word_embeddings": True}, tensors)
    elif writer == "bin":
        folder = write_bin(tmp_path / "step7", {**TINY, **OLMO2, "tie_word_embeddings": True}, {})
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        words = native_config({**TINY, "tie_word_embeddings": True})
        folder = write_safetensors(tmp_path / "step7", words, to_native(tensors))
    head = tensors.pop("lm_head.weight")
    assert_same(tensors_of(folder), {"model.embed_tokens.weight": head, **tensors})


def test_newer_dtypes_leave_the_rest_of_a_bin_readable(tmp_path: Path) -> None:
    kinds = {
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "U16": torch.uint16,
        "C64": torch.complex64, "F32": torch.float32,
    }  # fmt: skip
    tensors = {name: torch.arange(24.0).reshape(6, 4).to(kind)[1:5] for name, kind in kinds.items()}
    (tmp_path / "config.json").write_text("{}")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with FolderCheckpoint("run", Revision("step7"), tmp_path) as checkpoint:
        assert {name: (info.dtype, info.shape) for name, info in checkpoint.tensors.items()} == {
            name: (name, (4, 4)) for name in kinds
        }
        for name, info in checkpoint.tensors.items():
            assert checkpoint.read(info).tobytes() == tensors[name].contiguous().view(torch.uint8).numpy().tobytes()
