"""GPT-NeoX's tensors under canonical names; its fused queries, keys and values are cut head by head.

The rows of `query_key_value` are the queries, keys and values of head 0, then those of head 1, and so on. Masks and
frequencies that older versions of transformers stored beside the weights are left out.

    >>> from olmo_dynamics.checkpoints.formats.tensor_views import Stored
    >>> fused = Stored("gpt_neox.layers.0.attention.query_key_value.bias", "F16", (12,), ())
    >>> [(view.name, view.shape) for view in neox_views([fused], {"num_attention_heads": 2})]  # doctest: +NORMALIZE_WHITESPACE
    [('model.layers.0.self_attn.q_proj.bias', (4,)), ('model.layers.0.self_attn.k_proj.bias', (4,)),
     ('model.layers.0.self_attn.v_proj.bias', (4,))]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from olmo_dynamics.checkpoints.formats.tensor_views import Stored, View

_TRUNK = "gpt_neox."
_NAMES = {
    "embed_in": "model.embed_tokens",
    "final_layer_norm": "model.norm",
    "embed_out": "lm_head",
    "lm_head": "lm_head",
}
_BLOCK_NAMES = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    "attention.dense": "self_attn.o_proj",
    "mlp.dense_h_to_4h": "mlp.up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}
_FUSED = "attention.query_key_value"
_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")
_BUFFER = re.compile(r"(?:.*\.)?(?:attention\.bias|attention\.masked_bias|rotary_emb\.inv_freq)")
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.")


@dataclass(frozen=True)
class HeadView(View):
    """The same `rows` of each of `heads` equal parts of a stored tensor, one below another."""

    heads: int = 1

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The canonical shape."""
        assert self.rows is not None
        return (self.heads * (self.rows[1] - self.rows[0]), *self.stored.shape[1:])

    def part(self, first: int, stop: int) -> View | None:
        """None, since the rows of several heads do not lie together."""
        return None

    def _gather(self, raws: Sequence[np.ndarray], kind: np.dtype) -> np.ndarray:
        assert self.rows is not None
        whole = super()._gather(raws, kind)
        by_head = whole.reshape(self.heads, -1, *whole.shape[1:])
        return by_head[:, slice(*self.rows)].reshape(self.shape)

    @property
    def _row_range(self) -> tuple[int, int]:
        return 0, self.stored.shape[0]

    @property
    def _row_shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def _is_plain(self) -> bool:
        return False


def neox_views(stored: Iterable[Stored], words: Mapping[str, Any]) -> Iterator[View]:
    """Canonical tensors; one whose place is unknown, or that cannot be cut, is as it is stored."""
    for tensor in stored:
        name = _bare(tensor.name)
        if _BUFFER.fullmatch(name):
            continue
        stem, _, kind = name.rpartition(".")
        found = _BLOCK.fullmatch(stem)
        views: list[View] = []
        if stem in _NAMES:
            views = [View(f"{_NAMES[stem]}.{kind}", tensor)]
        elif found and found[2] in _BLOCK_NAMES:
            views = [View(f"model.layers.{found[1]}.{_BLOCK_NAMES[found[2]]}.{kind}", tensor)]
        elif found and found[2] == _FUSED:
            views = _by_head(tensor, f"model.layers.{found[1]}.self_attn", kind, words.get("num_attention_heads"))
        yield from views or [View(tensor.name, tensor)]


def is_neox(name: str) -> bool:
    """True for a name that only GPT-NeoX has."""
    return f".{_FUSED}." in name


def published_name(name: str) -> str:
    """The name in transformers of a canonical tensor; of queries, keys and values the fused one's.

    >>> published_name("model.layers.3.mlp.up_proj.bias"), published_name("lm_head.weight")
    ('gpt_neox.layers.3.mlp.dense_h_to_4h.bias', 'lm_head.weight')
    """
    stem, _, kind = name.rpartition(".")
    found = _BLOCK.fullmatch(stem.removeprefix("model."))
    if found is None:
        return name if stem == "lm_head" else f"{_TRUNK}{_turned(_NAMES)[stem]}.{kind}"
    inside = _FUSED if found[2][-6:] in ("q_proj", "k_proj", "v_proj") else _turned(_BLOCK_NAMES)[found[2]]
    return f"{_TRUNK}layers.{found[1]}.{inside}.{kind}"


def _turned(names: Mapping[str, str]) -> dict[str, str]:
    return {canonical: published for published, canonical in names.items()}


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix(_TRUNK)


def _by_head(tensor: Stored, layer: str, kind: str, heads: object) -> list[View]:
    """Queries, keys and values; none if the rows are no multiple of three per head."""
    rows = tensor.shape[0] if tensor.shape else 0
    if type(heads) is not int or heads < 1 or not rows or rows % (3 * heads):
        return []
    size = rows // (3 * heads)
    return [
        HeadView(f"{layer}.{role}_proj.{kind}", tensor, (place * size, (place + 1) * size), heads=heads)
        for place, role in enumerate("qkv")
    ]
