"""Names of the axes of weight matrices, so that arrays of many tensors share them.

Rows are outputs and columns inputs, as in torch: an `up_proj` has rows `intermediate` and columns `hidden`.

    >>> dimensions({"model.layers.0.mlp.up_proj.weight": (48, 32), "model.norm.weight": (32,)})
    {'model.layers.0.mlp.up_proj.weight': ('intermediate', 'hidden'), 'model.norm.weight': ('hidden',)}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from olmo_dynamics.tensor_names import residual_axis_of, role_of

HIDDEN = "hidden"

_OTHER = {
    "embed_tokens": "vocabulary", "lm_head": "vocabulary", "q_proj": "query", "k_proj": "key", "v_proj": "value",
    "o_proj": "head_output", "gate_proj": "intermediate", "up_proj": "intermediate", "down_proj": "intermediate",
    "gate": "expert", "router": "expert", "q_norm": "query", "k_norm": "key",
}  # fmt: skip
"""The axis of each role that does not run along the residual stream."""

_RANKS = {1: ("element",), 2: ("row", "column")}

Shape = tuple[int, ...]


def dimensions(shapes: Mapping[str, Shape]) -> dict[str, tuple[str, ...]]:
    """The dimensions of each tensor, each of one size: the most common size of a name has it alone, others as a suffix.

    >>> dimensions({"embed_tokens.weight": (320, 32), "lm_head.weight": (304, 32), "scale": (2, 3)})["lm_head.weight"]
    ('vocabulary_304', 'hidden')
    """
    words = {name: _words(role_of(name), shape) for name, shape in shapes.items()}
    sizes = Counter(
        (word, size) for name, shape in shapes.items() for word, size in zip(words[name], shape, strict=True)
    )
    usual = dict(pair for pair, _ in reversed(sizes.most_common()))
    return {
        name: tuple(
            word if usual[word] == size else f"{word}_{size}" for word, size in zip(words[name], shape, strict=True)
        )
        for name, shape in shapes.items()
    }


def _words(role: str, shape: Shape) -> tuple[str, ...]:
    residual, other = residual_axis_of(role, shape), _OTHER.get(role)
    plain = _RANKS.get(len(shape)) or tuple(f"axis{place}" for place in range(len(shape)))
    if residual is None and not (other and len(shape) == 1):
        return tuple(f"{role}_{word}" for word in plain)
    return tuple(HIDDEN if place == residual else str(other) for place in range(len(shape)))
