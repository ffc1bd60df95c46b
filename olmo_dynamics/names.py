"""Words that two or more rooms share.

A `Revision` names one checkpoint, a `TensorInfo` one tensor in it, a `Site` one place inside the model, a `Quantity` one
thing we measure, and a `Record` one measured value. Nothing here imports more than NumPy.

    >>> from olmo_dynamics.names import TensorInfo
    >>> info = TensorInfo("model.layers.3.self_attn.q_proj.weight", "BF16", (64, 64), "model.safetensors", 0, 8192)
    >>> info.layer, info.role, info.residual_axis
    (3, 'q_proj', 1)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np

NO_LAYER = -1
"""Layer index of what lies outside the blocks: the embedding, the final norm, the head."""

NO_EXPERT = -1
"""Expert index of a tensor that belongs to none."""

ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
              "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}  # fmt: skip
"""Bytes an element takes, by safetensors dtype name."""

FLOAT_DTYPES = ("F64", "F32", "BF16", "F16")
"""The dtypes whose tensors can be measured."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One checkpoint of a run, by the name its publisher gave it.

    `token_label` is the text after `tokens` in the name, verbatim: six published rules produce it, so it is never parsed
    into a number. `tokens` is computed from the step and the run's batch size where that is known. `ingredient` is text
    because `1+2` is one. `commit` is the hash it was pinned to, empty until pinned or where there is none (folders).
    """

    name: str
    stage: int | None = None
    ingredient: str | None = None
    step: int | None = None
    tokens: int | None = None
    token_label: str | None = None
    prefix: str | None = None  # a learning rate such as "5e-5" in post-training repos
    suffix: str | None = None  # free text such as "mix-round5-from-2T-ckpt"
    commit: str = ""
    format: str = "safetensors"


_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.(.+)$")
_EXPERT = re.compile(r"(?:^|\.)experts\.(\d+)\.")

_READS_RESIDUAL = frozenset(
    {"embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "gate", "router"}
)
_WRITES_RESIDUAL = frozenset({"o_proj", "down_proj"})
_ON_RESIDUAL = frozenset({"post_attention_layernorm", "post_feedforward_layernorm", "input_layernorm", "norm"})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: its name, dtype (safetensors spelling), shape, and byte span in a file.

    `start` and `stop` are absolute offsets in `file`; `stop - start` is the tensor's size in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.stop - self.start

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def layer(self) -> int:
        """The block the tensor belongs to, or `NO_LAYER`."""
        found = _LAYER.search(self.name)
        return int(found.group(1)) if found else NO_LAYER

    @property
    def expert(self) -> int:
        """The expert of its layer that the tensor belongs to, or `NO_EXPERT`."""
        found = _EXPERT.search(self.name)
        return int(found.group(1)) if found else NO_EXPERT

    @property
    def role(self) -> str:
        """What the tensor is for: `q_proj`, `embed_tokens`, `norm`, …; the last word of the name before `.weight`."""
        words = self.name.removesuffix(".weight").split(".")
        suffix = "_bias" if words[-1] == "bias" and len(words) > 1 else ""
        return (words[-2] if suffix else words[-1]) + suffix

    @property
    def residual_axis(self) -> int | None:
        """The axis that runs along the residual stream, or None where none does (q_norm, k_norm) or it is unknown."""
        if len(self.shape) == 1:
            return 0 if self.role in _ON_RESIDUAL else None
        if len(self.shape) == 2 and self.role in _READS_RESIDUAL:
            return 1
        return 0 if len(self.shape) == 2 and self.role in _WRITES_RESIDUAL else None


class Site(StrEnum):
    """A named place in the forward pass where activations are read; `x` is the residual stream.

    Where norms are on sublayer outputs (OLMo 2, Olmo 3): `middle = x + norm(attention(x))`, `out = middle +
    norm(mlp(middle))`. Where they are on inputs (OLMo 1, OLMoE): `middle = x + attention(norm(x))`, `out = middle +
    mlp(norm(middle))`. A model lacks the sites of the norms that it does not have. What attention and the MLP read are
    `residual_in` and `residual_middle` in the former, `attention_input` and `mlp_input` in the latter.
    """

    EMBEDDING = "embedding"  # token embeddings, the stream before block 0           [N, hidden]
    RESIDUAL_IN = "residual_in"  # the stream entering a block                        [N, hidden]
    ATTENTION_INPUT = "attention_input"  # the stream after attention's input norm    [N, hidden]
    QUERY = "q"  # queries after QK-norm and clipping, before RoPE, all heads         [N, heads * head_dim]
    KEY = "k"  # keys after QK-norm and clipping, before RoPE, all KV heads           [N, kv_heads * head_dim]
    ATTENTION_OUTPUT = "attention_output"  # after o_proj, before any output norm     [N, hidden]
    ATTENTION_OUTPUT_NORMED = "attention_output_normed"  # after the output norm      [N, hidden]
    RESIDUAL_MIDDLE = "residual_middle"  # the stream between attention and MLP       [N, hidden]
    MLP_INPUT = "mlp_input"  # the stream after the MLP's or the experts' input norm  [N, hidden]
    ROUTER_LOGITS = "router_logits"  # the router's score of each expert              [N, experts]
    CHOSEN_EXPERTS = "chosen_experts"  # whole numbers, the most probable first       [N, experts per token]
    MLP_HIDDEN = "mlp_hidden"  # silu(gate) * up, the input of down_proj; one MLP     [N, intermediate]
    MLP_OUTPUT = "mlp_output"  # after down_proj or the mixing, before any output norm [N, hidden]
    MLP_OUTPUT_NORMED = "mlp_output_normed"  # after the output norm                  [N, hidden]
    RESIDUAL_OUT = "residual_out"  # the stream leaving a block                       [N, hidden]
    FINAL_NORM = "final_norm"  # after the last norm, the head's input                [N, hidden]
    LOGITS = "logits"  # unnormalised log-probabilities                               [N, vocabulary]

    @property
    def in_block(self) -> bool:
        """Whether the site exists once a block rather than once a model."""
        return self not in (Site.EMBEDDING, Site.FINAL_NORM, Site.LOGITS)

    @property
    def hidden_wide(self) -> bool:
        """Whether its last axis is the residual stream's features."""
        return self not in (
            Site.QUERY, Site.KEY, Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS, Site.MLP_HIDDEN, Site.LOGITS
        )  # fmt: skip

    @property
    def is_choice(self) -> bool:
        """Whether its values are indices, of which means and magnitudes say nothing."""
        return self is Site.CHOSEN_EXPERTS


class Status(IntEnum):
    """Why a number in a store is, or is not, a number."""

    NOT_MEASURED = 0  # nobody asked for it, or it does not exist here
    MEASURED = 1
    NONFINITE = 2  # measured, and the weights or activations hold NaN or Inf: a NaN beside it is a true one
    DEGENERATE = 3  # measured, and a ratio's denominator is zero (all elements equal, or all zero): that ratio is NaN


class Cost(StrEnum):
    """What measuring takes, cheapest first."""

    PARAMETERS = "parameters"  # one pass over the weights
    FORWARD = "forward"  # a forward pass over the probe


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing we measure, declared once; recorder, store, frame, axis title and glossary all read this record."""

    name: str
    group: str
    long_name: str
    axes: tuple[str, ...]  # beside `revision`, which every quantity has
    formula: str
    source: str
    unit: str = "1"
    symbol: str = ""
    cost: Cost = Cost.PARAMETERS
    valid: tuple[float, float] = (-math.inf, math.inf)
    dtype: str = "float64"
    note: str = ""

    @property
    def key(self) -> str:
        """`group/name`, unique."""
        return f"{self.group}/{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One measured value: of which quantity, at which labels of its axes, and the array over the axes left open.

    `at` fixes some of the quantity's axes by label (`{"tensor": "model.norm.weight"}`, `{"site": "residual_out", "layer":
    3}`); `values` spans the remaining axes, in the quantity's order. A scalar fixes them all.
    """

    quantity: Quantity
    values: np.ndarray
    at: dict[str, str | int | float] = field(default_factory=dict)
