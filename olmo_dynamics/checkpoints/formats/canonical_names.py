"""Canonical names: the Hugging Face names of the trainers' tensors, and the rows of fused tensors that belong to each.

Fused tensors are split where the trainers' own code splits them, and the order differs: attention holds queries, keys, values;
a dense feed-forward up before gate; experts are stacked by rows, some of them transposed.

    >>> from olmo_dynamics.checkpoints.formats.tensor_views import Chunk, Stored
    >>> fused = Stored("transformer.blocks.0.ff_proj.weight", "F32", (6, 2), ())
    >>> [(view.name, view.rows) for view in native_views([fused], ModelShape(2, 2, 2, 3))]  # doctest: +NORMALIZE_WHITESPACE
    [('model.layers.0.mlp.up_proj.weight', (0, 3)), ('model.layers.0.mlp.gate_proj.weight', (3, 6))]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from olmo_dynamics.checkpoints.formats.family_facts.trainer_families import NORMS_FIRST
from olmo_dynamics.checkpoints.formats.tensor_views import Stored, View
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import ITEM_BYTES


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes by which fused tensors are split, in rows."""

    hidden_size: int
    query_rows: int
    key_rows: int
    intermediate_size: int
    experts: int = 0
    norms_first: bool = False  # norms that precede the sublayers have other names

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """The sizes in a Hugging Face config."""
        hidden_size, heads = config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden_size // heads
        return cls(
            hidden_size,
            heads * head_dim,
            config["num_key_value_heads"] * head_dim,
            config["intermediate_size"],
            config.get("num_experts", 0),
            config["model_type"] in NORMS_FIRST,
        )


_NO_SIZES = ModelShape(0, 0, 0, 0)
_KINDS = ("weight", "bias")

_BLOCK = re.compile(r"(?:transformer\.)?blocks\.(\d+)\.(.+)")
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.", "_orig_mod.")

NATIVE_NAMES = {
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "transformer.ff_out": "lm_head",  # in a block the same name means the down projection
}
NATIVE_BLOCK_NAMES = {
    "attn_out": "self_attn.o_proj",
    "ff_out": "mlp.down_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "ffn.router.layer": "mlp.gate",
}
_CORE = {
    "embeddings.weight": "model.embed_tokens.weight",
    "lm_head.norm.weight": "model.norm.weight",
    "lm_head.w_out.weight": "lm_head.weight",
}
_CORE_BLOCK = {
    "attention.w_q.weight": "self_attn.q_proj.weight",
    "attention.w_k.weight": "self_attn.k_proj.weight",
    "attention.w_v.weight": "self_attn.v_proj.weight",
    "attention.w_out.weight": "self_attn.o_proj.weight",
    "attention.q_norm.weight": "self_attn.q_norm.weight",
    "attention.k_norm.weight": "self_attn.k_norm.weight",
    "attention_norm.weight": "post_attention_layernorm.weight",
    "feed_forward_norm.weight": "post_feedforward_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
}


def bare_name(name: str) -> str:
    """A parameter's name without the prefixes that wrappers of the training loop add."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("model.")


def native_views(stored: Iterable[Stored], model: ModelShape) -> Iterator[View]:
    """Canonical tensors of Ai2's first trainer, and of hf_olmo, whose names also begin with `model.`.

    Raises:
        CheckpointError: a name is unknown, or a fused tensor has a size that cannot be split.
    """
    for tensor in stored:
        name = bare_name(tensor.name)
        stem, _, kind = name.rpartition(".")
        found = _BLOCK.fullmatch(name)
        if stem in NATIVE_NAMES and kind in _KINDS:
            yield View(f"{NATIVE_NAMES[stem]}.{kind}", tensor)
        elif found:
            yield from _native_block(tensor, f"model.layers.{found[1]}", found[2], model)
        else:
            raise _unknown(tensor)


def core_views(stored: Iterable[Stored], model: ModelShape) -> Iterator[View]:
    """Canonical tensors of OLMo-core.

    Raises:
        CheckpointError: a name is unknown, or the experts have a size that cannot be split.
    """
    for tensor in stored:
        name = bare_name(tensor.name)
        found = _BLOCK.fullmatch(name)
        if name in _CORE:
            yield View(_CORE[name], tensor)
        elif found and found[2] in _CORE_BLOCK:
            yield View(f"model.layers.{found[1]}.{_CORE_BLOCK[found[2]]}", tensor)
        elif found:
            yield from _core_experts(tensor, f"model.layers.{found[1]}", found[2], model)
        else:
            raise _unknown(tensor)


def known_views(
    stored: Iterable[Stored], views: Callable[[Iterable[Stored], ModelShape], Iterator[View]], model: ModelShape | None
) -> Iterator[View]:
    """Canonical tensors where the mapping is known, and the others as they are stored; without sizes nothing is split.

    A forward pass checks names and shapes before it runs, and weights alone can be measured under any name.
    """
    for tensor in stored:
        try:
            found = list(views([tensor], model or _NO_SIZES)) if tensor.dtype in ITEM_BYTES else []
        except CheckpointError:
            found = []
        yield from found or [View(tensor.name, tensor)]


def _native_block(tensor: Stored, layer: str, word: str, model: ModelShape) -> Iterator[View]:
    stem, _, kind = word.rpartition(".")
    if word.startswith("ffn.experts.mlp.") and kind in ("w1", "v1", "w2"):
        role = {"w1": "gate", "v1": "up", "w2": "down"}[kind]
        yield from _experts(tensor, layer, role, model, transposed=role == "down")
    elif kind not in _KINDS:
        raise _unknown(tensor)
    elif stem in NATIVE_BLOCK_NAMES:
        yield View(f"{layer}.{NATIVE_BLOCK_NAMES[stem]}.{kind}", tensor)
    elif stem == "attn_norm":
        yield View(f"{layer}.{'input' if model.norms_first else 'post_attention'}_layernorm.{kind}", tensor)
    elif stem == "ff_norm":
        yield View(f"{layer}.post_{'attention' if model.norms_first else 'feedforward'}_layernorm.{kind}", tensor)
    elif stem == "att_proj":
        names = [f"{layer}.self_attn.{role}_proj.{kind}" for role in "qkv"]
        yield from _split(tensor, names, [model.query_rows, model.key_rows, model.key_rows], model.hidden_size)
    elif stem == "ff_proj":
        names = [f"{layer}.mlp.{role}_proj.{kind}" for role in ("up", "gate")]
        yield from _split(tensor, names, [model.intermediate_size] * 2, model.hidden_size)
    else:
        raise _unknown(tensor)


def _core_experts(tensor: Stored, layer: str, word: str, model: ModelShape) -> Iterator[View]:
    """Gate and up are stored as they are used or transposed, depending on the version; their shape tells which."""
    if word == "feed_forward_moe.router.weight":
        yield View(f"{layer}.mlp.gate.weight", tensor, block=_router_shape(tensor, model))
    elif word.startswith("feed_forward_moe.experts.mlp.") and word[-2:] in ("w1", "w2", "w3"):
        role = {"w1": "gate", "w3": "up", "w2": "down"}[word[-2:]]
        # if both sides are equal the shape does not tell, and the layout of the published models is assumed
        turned = role == "down" or tensor.shape[-1] == model.intermediate_size
        yield from _experts(tensor, layer, role, model, transposed=turned)
    else:
        raise _unknown(tensor)


def _experts(tensor: Stored, layer: str, role: str, model: ModelShape, *, transposed: bool) -> Iterator[View]:
    used = (
        (model.intermediate_size, model.hidden_size) if role != "down" else (model.hidden_size, model.intermediate_size)
    )
    block = used[::-1] if transposed else used
    flat = (model.experts * block[0], block[1])
    if tensor.shape not in (flat, (model.experts, *block)) or not model.experts:
        raise _impossible(tensor, f"{model.experts} experts of {list(block)}")
    rows = block[0] if tensor.shape == flat else 1
    for expert in range(model.experts):
        name = f"{layer}.mlp.experts.{expert}.{role}_proj.weight"
        yield View(name, tensor, (expert * rows, (expert + 1) * rows), block, transposed)


def _split(tensor: Stored, names: list[str], sizes: list[int], columns: int) -> Iterator[View]:
    whole = (sum(sizes), columns) if names[0].endswith(".weight") else (sum(sizes),)
    if tensor.shape != whole or not all(whole):
        raise _impossible(tensor, f"{' + '.join(map(str, sizes))} rows of {columns}")
    start = 0
    for name, size in zip(names, sizes, strict=True):
        yield View(name, tensor, (start, start + size))
        start += size


def _router_shape(tensor: Stored, model: ModelShape) -> tuple[int, int]:
    shape = (model.experts, model.hidden_size)
    if tensor.shape not in (shape, (shape[0] * shape[1],)):
        raise _impossible(tensor, f"{shape[0]} experts of {shape[1]}")
    return shape


def _impossible(tensor: Stored, expected: str) -> CheckpointError:
    return CheckpointError(
        f"fused tensor {tensor.name} has shape {list(tensor.shape)}, but by its config it must hold {expected}; "
        "config and weights are of different models"
    )


def _unknown(tensor: Stored) -> CheckpointError:
    return CheckpointError(
        f"tensor {brief(tensor.name)} is unknown in this format; its place in the model cannot be told"
    )
