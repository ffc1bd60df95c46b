"""Words that two or more packages share.

A `Revision` names one checkpoint, a `TensorInfo` one tensor in it, and a `Site` one place inside the model. Measurements are
declared in `olmo_dynamics.quantities`.

    >>> from olmo_dynamics.names import TensorInfo
    >>> info = TensorInfo("model.layers.3.self_attn.q_proj.weight", "BF16", (64, 64), "model.safetensors", 0, 8192)
    >>> info.layer, info.role, info.residual_axis
    (3, 'q_proj', 1)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum

from olmo_dynamics.tensor_names import expert_of, layer_of, residual_axis_of, role_of

RUN, FORK = "run", "fork"
"""The line of a name that tells no part of one, and the last part of the line of a fork."""

FORMAT_WORDS = frozenset((
    "unsharded", "sharded", "hf", "native", "safetensors", "pytorch", "pt", "bin", "fp32", "fp16", "bf16", "checkpoint",
    "ckpt", "model", "weights", "final", "last",
))  # fmt: skip
"""Words of a revision's name that tell how it was saved, and nothing of its training."""

WITHIN_LINE = re.compile(
    r"(?<![^-_./=\s])(?:"
    r"(?:epochs?|ep|rank|(?:global[-_]?)?steps?|checkpoint|ckpt|iter|ba)[-_=]?[0-9]+(?:\.[0-9]+)?"
    r"|(?:(?:train|val|valid|eval|test)[-_])?(?:loss|acc|accuracy|ppl|perplexity|bpb|score)[-_=]?[0-9]+(?:\.[0-9]+)?"
    r")(?![^-_./=\s])",
    re.IGNORECASE,
)
"""Words with a number that may differ between revisions of one line: epochs, ranks, further steps, scores."""

NO_LAYER = -1
"""Layer index of what lies outside the blocks: the embedding, the final norm, the head."""

PUBLISHED = "published"
"""The coordinate along `tensor` that keeps the stored names, in stores of families that name tensors in a way of their own."""

SHIPPED_TASKS = ("arithmetic", "code", "agreement", "stereotypes")
"""The tasks that ship with the package."""

NO_EXPERT = -1
"""Expert index of a tensor that belongs to none."""

ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
              "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "U16": 2, "U32": 4, "U64": 8,
              "C64": 8}  # fmt: skip
"""Bytes per element, by safetensors dtype name; elements smaller than a byte are not among them."""

FLOAT_DTYPES = ("F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")
"""The dtypes whose tensors can be measured."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One checkpoint of a run, by the name its publisher gave it.

    `token_label` is the text after `tokens` in the name, verbatim: six published rules produce it, so it is never parsed
    into a number. `tokens` is computed from the step and the run's batch size where that is known. `ingredient` is text
    because `1+2` is one, `seed` because `small-aux-2` is one. `commit` is the hash it was pinned to, empty until pinned or
    where there is none (folders).

    `position_step` and `position_tokens` count from the beginning of the whole training: in stage 2 they add the steps and
    tokens of the stages before. A source that lists a run sets them; None if it does not know what came before.

        >>> Revision("stage2-ingredient1-step9000-seed-7", stage=2, ingredient="1", step=9000, seed="7").line
        'stage2/ingredient1/seed7'
    """

    name: str
    stage: int | None = None
    ingredient: str | None = None
    step: int | None = None
    tokens: int | None = None
    token_label: str | None = None
    prefix: str | None = None  # a learning rate such as "5e-5" in post-training repos
    suffix: str | None = None  # all other words of the name, such as "mix-round5-from-2T-ckpt"
    commit: str = ""
    format: str = "safetensors"
    seed: str | None = None
    forked_from: str | None = None  # the line of training that it was forked from
    position_step: int | None = None
    position_tokens: int | None = None

    @property
    def seed_name(self) -> str:
        """The seed as lines and filters spell it: `seed2`, `seed-small-aux-2`; empty if there is none."""
        return "" if self.seed is None else f"seed{'' if self.seed.isdigit() else '-'}{self.seed}"

    @property
    def branch(self) -> str:
        """The words of the suffix that tell a side branch: all but formats, epochs and scores; empty if there are none."""
        return branch_of(self.suffix or "")

    @property
    def line(self) -> str:
        """The line of training it belongs to: `stage1[/ingredientN][/seedN][/fork]`, and `run` if its name tells no part.

        A learning rate and a side branch are parts as well: revisions of one line follow each other in one training.
        """
        parts = (
            "" if self.stage is None else f"stage{self.stage}",
            f"ingredient{self.ingredient}" if self.ingredient else "",
            self.seed_name,
            self.prefix or "",
            self.branch,
        )
        own = "/".join(part for part in parts if part)
        if self.forked_from is None:
            return own or RUN
        return "/".join(filter(None, (self.forked_from, own, FORK)))


def branch_of(suffix: str) -> str:
    """The part of a suffix that names a side branch: empty if all its words are formats, epochs, scores or further steps.

    >>> branch_of("mix-round5-from-2T-ckpt"), branch_of("unsharded-hf"), branch_of("epoch_1"), branch_of("long-epoch_1")
    ('mix-round5-from-2T-ckpt', '', '', 'long')
    """
    rest = WITHIN_LINE.sub("", suffix).strip("-_./= ")
    words = re.split(r"[-_./=\s]+", rest.lower())
    return "" if FORMAT_WORDS.issuperset(filter(None, words)) else rest


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The place of one tensor: its name, dtype (safetensors spelling), shape, and byte span in a file.

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

    def rows(self, first: int, stop: int) -> TensorInfo:
        """The place of rows `first` up to, not including, `stop`, as one tensor; a vector's rows are its elements."""
        row = self.nbytes // self.shape[0]
        start = self.start + first * row
        return replace(self, shape=(stop - first, *self.shape[1:]), start=start, stop=self.start + stop * row)

    @property
    def layer(self) -> int:
        """The block the tensor belongs to, or `NO_LAYER`."""
        layer = layer_of(self.name)
        return NO_LAYER if layer is None else layer

    @property
    def expert(self) -> int:
        """The expert of its layer that the tensor belongs to, or `NO_EXPERT`."""
        expert = expert_of(self.name)
        return NO_EXPERT if expert is None else expert

    @property
    def role(self) -> str:
        """The purpose of the tensor: `q_proj`, `embed_tokens`, `norm`, …; the last word of the name before `.weight`."""
        return role_of(self.name)

    @property
    def residual_axis(self) -> int | None:
        """The axis that runs along the residual stream, or None where none does (q_norm, k_norm) or it is unknown."""
        return residual_axis_of(self.role, self.shape)


class Site(StrEnum):
    """A named place in the forward pass where activations are read; `x` is the residual stream.

    Where norms are on sublayer outputs (OLMo 2, Olmo 3): `middle = x + norm(attention(x))`, `out = middle +
    norm(mlp(middle))`. Where they are on inputs (OLMo 1, OLMoE, Llama): `middle = x + attention(norm(x))`, `out = middle +
    mlp(norm(middle))`. A model lacks the sites of the norms that it does not have, and one whose attention and MLP read the same
    stream (GPT-NeoX) has no stream between the two. What attention and the MLP read are
    `residual_in` and `residual_middle` in the former, `attention_input` and `mlp_input` in the latter.
    """

    EMBEDDING = "embedding"  # token embeddings, the stream before block 0           [N, hidden]
    RESIDUAL_IN = "residual_in"  # the stream entering a block                        [N, hidden]
    ATTENTION_INPUT = "attention_input"  # the stream after attention's input norm    [N, hidden]
    QUERY = "q"  # queries after QK-norm and clipping, before RoPE, all heads         [N, heads * head_dim]
    KEY = "k"  # keys after QK-norm and clipping, before RoPE, all KV heads           [N, kv_heads * head_dim]
    QUERY_ROTATED = "q_rotated"  # queries after RoPE; keys and values beside         [N, heads * head_dim]
    ATTENTION_OUTPUT = "attention_output"  # after o_proj, before any output norm     [N, hidden]
    ATTENTION_OUTPUT_NORMED = "attention_output_normed"  # after the output norm      [N, hidden]
    RESIDUAL_MIDDLE = "residual_middle"  # the stream between attention and MLP       [N, hidden]
    MLP_INPUT = "mlp_input"  # the stream after the MLP's or the experts' input norm  [N, hidden]
    ROUTER_LOGITS = "router_logits"  # the router's score of each expert              [N, experts]
    CHOSEN_EXPERTS = "chosen_experts"  # whole numbers, the most probable first       [N, experts per token]
    MLP_HIDDEN = "mlp_hidden"  # silu(gate) * up or gelu(up), down_proj's input; one MLP  [N, intermediate]
    MLP_OUTPUT = "mlp_output"  # after down_proj or the mixing, before any output norm [N, hidden]
    MLP_OUTPUT_NORMED = "mlp_output_normed"  # after the output norm                  [N, hidden]
    RESIDUAL_OUT = "residual_out"  # the stream leaving a block                       [N, hidden]
    FINAL_NORM = "final_norm"  # after the last norm, the head's input                [N, hidden]
    LOGITS = "logits"  # unnormalised log-probabilities                               [N, vocabulary]

    @property
    def in_block(self) -> bool:
        """True if the site exists once per block rather than once per model."""
        return self not in (Site.EMBEDDING, Site.FINAL_NORM, Site.LOGITS)

    @property
    def hidden_wide(self) -> bool:
        """True if its last axis is the residual stream's features."""
        return self not in (
            Site.QUERY, Site.KEY, Site.QUERY_ROTATED, Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS, Site.MLP_HIDDEN, Site.LOGITS
        )  # fmt: skip

    @property
    def after_blocks(self) -> bool:
        """True for the sites that a pass reaches only if it runs through every block."""
        return self in (Site.FINAL_NORM, Site.LOGITS)

    @property
    def is_choice(self) -> bool:
        """True where values are indices, of which means and magnitudes say nothing."""
        return self is Site.CHOSEN_EXPERTS

    @property
    def is_measured(self) -> bool:
        """True if its values are vectors of which the group `activations` keeps statistics."""
        return self not in (Site.QUERY_ROTATED, Site.CHOSEN_EXPERTS, Site.LOGITS)
