"""The ways to join sublayers to the residual stream: normalise what they read or write, one after another or at once.

Each block runs attention, then an MLP (or experts); both keep the names that Hugging Face gives their parts, though the
same name, `post_attention_layernorm`, is another norm in each: the input norm of the MLP, the output norm of attention.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from olmo_dynamics.model.rope import Rope
from olmo_dynamics.model.sites import Tap
from olmo_dynamics.names import Site


class PreNormBlock(nn.Module):
    """One layer of OLMo 1, OLMoE or Llama: `middle = x + attention(norm(x))`, `out = middle + mlp(norm(middle))`."""

    self_attn: nn.Module
    mlp: nn.Module
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.residual_in = Tap(Site.RESIDUAL_IN, layer)
        self.attention_input = Tap(Site.ATTENTION_INPUT, layer)
        self.residual_middle = Tap(Site.RESIDUAL_MIDDLE, layer)
        self.mlp_input = Tap(Site.MLP_INPUT, layer)
        self.residual_out = Tap(Site.RESIDUAL_OUT, layer)

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The stream leaving the block."""
        x = self.residual_in(x)
        attended = self.self_attn(self.attention_input(self.input_layernorm(x)), rope)
        x = self.residual_middle(x + attended)
        fed = self.mlp(self.mlp_input(self.post_attention_layernorm(x)))
        return self.residual_out(x + fed)


class ParallelBlock(nn.Module):
    """One layer of most GPT-NeoX models: `out = x + attention(norm(x)) + mlp(other_norm(x))`, with no stream between the two."""

    self_attn: nn.Module
    mlp: nn.Module
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.residual_in = Tap(Site.RESIDUAL_IN, layer)
        self.attention_input = Tap(Site.ATTENTION_INPUT, layer)
        self.mlp_input = Tap(Site.MLP_INPUT, layer)
        self.residual_out = Tap(Site.RESIDUAL_OUT, layer)

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The stream leaving the block."""
        x = self.residual_in(x)
        attended = self.self_attn(self.attention_input(self.input_layernorm(x)), rope)
        fed = self.mlp(self.mlp_input(self.post_attention_layernorm(x)))
        return self.residual_out(fed + attended + x)  # transformers' order, to the same rounding in bfloat16


class PostNormBlock(nn.Module):
    """One layer of OLMo 2 or Olmo 3: `middle = x + norm(attention(x))`, `out = middle + norm(mlp(middle))`."""

    self_attn: nn.Module
    mlp: nn.Module
    post_attention_layernorm: nn.Module
    post_feedforward_layernorm: nn.Module

    def __init__(self, layer: int) -> None:
        super().__init__()
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
