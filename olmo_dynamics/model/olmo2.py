"""OLMo 2, written to be read: what each tensor of an OLMo 2 checkpoint means.

Every parameter has the name it has in the checkpoint. A block normalises what its sublayers *write* to the residual
stream, not what they read from it:

    middle = x + norm(attention(x))
    out = middle + norm(mlp(middle))

Queries and keys are normalised too, over all heads at once, before they are split into heads and turned by position.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "olmo2", "hidden_size": 64, "num_hidden_layers": 2,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100}), device="cpu")
    >>> init_weights(model, seed=0)
    >>> model(torch.tensor([[5, 17, 42]])).shape
    torch.Size([1, 3, 100])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.rope import Rope, rope_table, rotate
from olmo_dynamics.model.sites import Tap
from olmo_dynamics.names import Site


class RMSNorm(nn.RMSNorm):
    """`weight * x / sqrt(mean(x**2) + eps)`, computed in float32 and rounded once."""

    def forward(self, x: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch positions width"]:
        """Vectors of RMS 1, times the weight; in `x`'s dtype, also where autocast keeps the weight in another."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class Attention(nn.Module):
    """Causal attention; with fewer key-value heads than heads, each serves a run of neighbouring query heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_width, bias=False)
        self.o_proj = nn.Linear(config.query_width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.query_width, eps=config.norm_eps)
        self.k_norm = RMSNorm(config.kv_width, eps=config.norm_eps)
        self.query = Tap(Site.QUERY, layer)
        self.key = Tap(Site.KEY, layer)
        self.output = Tap(Site.ATTENTION_OUTPUT, layer)

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """What attention writes, before the output norm."""
        q = self.query(self.q_norm(self.q_proj(x)))
        k = self.key(self.k_norm(self.k_proj(x)))
        v = self.v_proj(x)
        q, k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in (q, k, v))  # [batch, positions, heads, head_dim]
        q, k = rotate(q, rope), rotate(k, rope)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.output(self.o_proj(mixed.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.hidden = Tap(Site.MLP_HIDDEN, layer)
        self.output = Tap(Site.MLP_OUTPUT, layer)

    def forward(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions hidden"]:
        """What the MLP writes, before the output norm."""
        hidden = self.hidden(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.output(self.down_proj(hidden))


class Block(nn.Module):
    """One layer: attention, then MLP, each normalised and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.residual_in = Tap(Site.RESIDUAL_IN, layer)
        self.attention_output_normed = Tap(Site.ATTENTION_OUTPUT_NORMED, layer)
        self.residual_middle = Tap(Site.RESIDUAL_MIDDLE, layer)
        self.mlp_output_normed = Tap(Site.MLP_OUTPUT_NORMED, layer)
        self.residual_out = Tap(Site.RESIDUAL_OUT, layer)

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The stream leaving the block."""
        x = self.residual_in(x)
        attended = self.attention_output_normed(self.post_attention_layernorm(self.self_attn(x, rope)))
        x = self.residual_middle(x + attended)
        fed = self.mlp_output_normed(self.post_feedforward_layernorm(self.mlp(x)))
        return self.residual_out(x + fed)


class Stack(nn.Module):
    """The embedding, the blocks and the final norm: the part of a checkpoint named `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.embedding = Tap(Site.EMBEDDING)
        self.final_norm = Tap(Site.FINAL_NORM)


class Olmo2(nn.Module):
    """An OLMo 2 language model; token ids in, logits out.

    `embed`, the blocks, `finish` and `head` are the stages of `forward`, apart so that each can be run alone. A tied
    model has no `lm_head`: its head reads the embedding's rows.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Stack(config)
        tied = config.tied_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.logits = Tap(Site.LOGITS)

    def forward(self, token_ids: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions vocab"]:
        """Logits of the token after each position."""
        return self.head(self.hidden(token_ids))

    def hidden(self, token_ids: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions hidden"]:
        """All but the head: the final norm's output, for losses that make logits a slice at a time."""
        x = self.embed(token_ids)
        rope = self.rope(x.shape[1], device=x.device, dtype=x.dtype)
        for block in self.model.layers:
            x = block(x, rope)
        return self.finish(x)

    def rope(self, positions: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Rope:
        """The rotation table of the first `positions` positions, which every block shares."""
        config = self.config
        return rope_table(
            positions=positions, head_dim=config.head_dim, theta=config.rope_theta, device=device, dtype=dtype
        )

    def embed(self, token_ids: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions hidden"]:
        """The stream entering block 0."""
        return self.model.embedding(self.model.embed_tokens(token_ids))

    def finish(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions hidden"]:
        """The final norm of the stream leaving the last block."""
        return self.model.final_norm(self.model.norm(x))

    def head(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions vocab"]:
        """Logits of normalised hidden states."""
        return self.logits(F.linear(x, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(x))
