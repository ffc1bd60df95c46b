"""One model written in every format, by the libraries that write them, from Hugging Face tensors."""

from __future__ import annotations

import base64
import io
import json
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import yaml
from safetensors.torch import save_file

State = dict[str, torch.Tensor]


def native_config(config: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """Native fields of a Hugging Face config, as the trainer dumps them."""
    dense = {
        "d_model": config["hidden_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "n_layers": config["num_hidden_layers"],
        "mlp_ratio": 4,
        "mlp_hidden_size": 2 * config["intermediate_size"],
        "vocab_size": config["vocab_size"] - 3,
        "embedding_size": config["vocab_size"],
        "max_sequence_length": config["max_position_embeddings"],
        "rope": True,
        "rope_theta": 10000,
        "include_bias": False,
        "bias_for_layer_norm": False,
        "activation_type": "swiglu",
        "block_type": "sequential",
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "layer_norm_eps": config.get("rms_norm_eps", 1e-5),
        "attention_layer_norm": True,
        "norm_after": True,
        "weight_tying": config["tie_word_embeddings"],
        "init_std": 0.02,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    return dense | others


def to_native(state: State) -> State:
    """Dense Hugging Face tensors, fused and named as in the trainer."""
    ends = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out"}
    parts = {"self_attn.o_proj": "attn_out", "mlp.down_proj": "ff_out", "self_attn.q_norm": "q_norm",
             "self_attn.k_norm": "k_norm", "post_attention_layernorm": "attn_norm",
             "post_feedforward_layernorm": "ff_norm"}  # fmt: skip
    native: State = {}
    for name, tensor in state.items():
        stem = name.removesuffix(".weight")
        if stem in ends:
            native[f"transformer.{ends[stem]}.weight"] = tensor
            continue
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        block, prefix = f"transformer.blocks.{layer}", f"model.layers.{layer}"
        if part in parts:
            native[f"{block}.{parts[part]}.weight"] = tensor
        elif part == "self_attn.q_proj":
            native[f"{block}.att_proj.weight"] = torch.cat(
                [state[f"{prefix}.self_attn.{c}_proj.weight"] for c in "qkv"]
            )
        elif part == "mlp.up_proj":
            native[f"{block}.ff_proj.weight"] = torch.cat([tensor, state[f"{prefix}.mlp.gate_proj.weight"]])
    return native


def to_core(state: State) -> State:
    """Dense Hugging Face tensors under OLMo-core's names."""
    parts = {"self_attn.q_proj": "attention.w_q", "self_attn.k_proj": "attention.w_k", "self_attn.v_proj": "attention.w_v",
             "self_attn.o_proj": "attention.w_out", "self_attn.q_norm": "attention.q_norm",
             "self_attn.k_norm": "attention.k_norm", "post_attention_layernorm": "attention_norm",
             "post_feedforward_layernorm": "feed_forward_norm", "mlp.gate_proj": "feed_forward.w1",
             "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3", "model.embed_tokens": "embeddings",
             "model.norm": "lm_head.norm", "lm_head": "lm_head.w_out"}  # fmt: skip
    core = {}
    for name, tensor in state.items():
        for old, new in parts.items():
            if name in (f"{old}.weight", f"{name.rpartition('.' + old)[0]}.{old}.weight"):
                home = name.removesuffix(f"{old}.weight").replace("model.layers.", "blocks.")
                core[f"{home}{new}.weight"] = tensor
    return core


def core_experiment(config: Mapping[str, Any], **model: Any) -> dict[str, Any]:
    """The experiment config of a dense OLMo 2."""
    norm = {
        "name": "rms",
        "eps": config["rms_norm_eps"],
        "bias": False,
        "dtype": "float32",
        "_CLASS_": "x.LayerNormConfig",
    }
    attention = {"name": "default", "n_heads": config["num_attention_heads"], "n_kv_heads": config["num_key_value_heads"],
                 "bias": False, "rope": {"name": "default", "theta": 10000, "full_precision": True, "_CLASS_": "x.RoPEConfig"},
                 "qk_norm": norm, "use_flash": True, "dtype": "float32"}  # fmt: skip
    block = {"attention": attention, "layer_norm": norm, "name": "reordered_norm",
             "feed_forward": {"hidden_size": config["intermediate_size"], "bias": False, "name": "default"}}  # fmt: skip
    fields = {"d_model": config["hidden_size"], "vocab_size": config["vocab_size"], "n_layers": config["num_hidden_layers"],
              "block": block, "lm_head": {"layer_norm": norm, "bias": False}, "name": "default", "init_seed": 0}  # fmt: skip
    return {
        "model": fields | model,
        "dataset": {"sequence_length": 64, "tokenizer": {"eos_token_id": 0, "pad_token_id": 1}},
    }


def adam_state(state: State) -> dict[str, State]:
    """Moments and a step for each parameter, all different."""
    return {
        name: {"step": torch.tensor(7.0), "exp_avg": tensor * 0.5 + 1, "exp_avg_sq": tensor.square()}
        for name, tensor in state.items()
    }


def saved(value: Any) -> bytes:
    """The bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


FORMS = ("safetensors", "shards", "bin", "bin shards")
"""The ways to store one state in Hugging Face's files."""


def write_form(folder: Path, state: State, form: str) -> None:
    """The weights of a folder in one of `FORMS`; shards have every other tensor."""
    end = ".bin" if "bin" in form else ".safetensors"
    write: Callable[[State, Path], Any] = torch.save if "bin" in form else save_file
    stem = "pytorch_model" if "bin" in form else "model"
    if "shards" not in form:
        write(dict(state), folder / f"{stem}{end}")
        return
    halves = {f"{stem}-0000{place}-of-00002{end}": list(state)[place - 1 :: 2] for place in (1, 2)}
    for file, names in halves.items():
        write({name: state[name] for name in names}, folder / file)
    homes = {name: file for file, names in halves.items() for name in names}
    (folder / f"{stem}{end}.index.json").write_text(json.dumps({"weight_map": homes}))


def write_bin(folder: Path, config: Mapping[str, Any], state: State) -> Path:
    """A checkpoint as hf_olmo publishes it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "hf_olmo", "architectures": ["OLMoForCausalLM"], **config})
    )
    torch.save({f"model.{name}": tensor for name, tensor in state.items()}, folder / "pytorch_model.bin")
    return folder


def write_native(folder: Path, config: Mapping[str, Any], state: State, *, encoded: bool = False) -> Path:
    """An unsharded directory of the trainer, with numbered parameters, or encoded and with named ones."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": dict(config), "optimizer": {"learning_rate": 0.002}}))
    torch.save({"global_step": 7, "epoch": 0}, folder / "train.pt")
    names = sorted(state)
    group = {"lr": 0.002, "betas": (0.9, 0.95), "weight_decay": 0.1}
    entries: dict[Any, State] = adam_state(state)
    if encoded:
        save_encoded(folder / "model.safetensors", dict(state))
        save_encoded(folder / "optim.safetensors", {"state": entries, "param_groups": [{**group, "params": names}]})
        return folder
    torch.save(state, folder / "model.pt")
    numbered = {"params": list(range(len(names))), "param_names": [f"module.{name}" for name in names]}
    state_by_number = {number: entries[name] for number, name in enumerate(names)}
    torch.save({"state": state_by_number, "param_groups": [group | numbered]}, folder / "optim.pt")
    return folder


def save_encoded(path: Path, value: Mapping[Any, Any]) -> None:
    """The trainer's safetensors files: base64 of pickled paths as keys."""
    flat: State = {}

    def visit(keys: tuple[Any, ...], item: Any) -> None:
        if isinstance(item, Mapping):
            for key, inner in item.items():
                visit((*keys, key), inner)
            return
        pickled = not isinstance(item, torch.Tensor)
        key = base64.urlsafe_b64encode(pickle.dumps((keys, pickled))).decode()
        flat[key] = torch.frombuffer(bytearray(pickle.dumps(item)), dtype=torch.uint8) if pickled else item.contiguous()

    visit((), value)
    save_file(flat, path)


def write_core(folder: Path, experiment: Mapping[str, Any], state: State, *, flattened: bool = True) -> Path:
    """A directory of OLMo-core, written by torch on one process."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(experiment))
    (folder / ".metadata.json").write_text('{"version": "2.0.0", "ephemeral": false}')
    (folder / "train").mkdir()
    torch.save({"global_step": 7, "epoch": 1}, folder / "train" / "rank0.pt")
    fields = {"lr": 0.002, "weight_decay": 0.1}
    groups: Any = {name: dict(fields) for name in state} if flattened else [{**fields, "params": list(state)}]
    tree = {"model": dict(state), "optim": {"state": adam_state(state), "param_groups": groups}}
    with alone():
        dcp.save(tree, checkpoint_id=folder / "model_and_optim", no_dist=True)
    return folder


@contextmanager
def alone() -> Iterator[None]:
    """Silence torch's warning that one process is not a distributed run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
