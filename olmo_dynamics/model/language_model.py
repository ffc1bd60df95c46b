"""The structure of all families: an embedding, a stack of blocks, a norm and a head; token ids in, logits out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.rope import Rope, rope_positions, rope_table, scaled_table
from olmo_dynamics.model.sites import Tap
from olmo_dynamics.names import Site


class Stack(nn.Module):
    """The embedding, the blocks and the final norm: the part of a checkpoint named `model.`."""

    def __init__(self, config: ModelConfig, block: Callable[[ModelConfig, int], nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(block(config, layer) for layer in range(config.layers))
        self.norm = norm
        self.embedding = Tap(Site.EMBEDDING)
        self.final_norm = Tap(Site.FINAL_NORM)


class LanguageModel(nn.Module):
    """A language model of any family; the family defines the blocks and the final norm.

    `embed`, the blocks, `finish` and `head` are the stages of `forward`, separate so that each can be run alone. A tied
    model has no `lm_head`: its head reads the embedding's rows. Every row is trained, including that of a padding token.
    A model without a head ends at the final norm: it has `hidden`, and no logits.
    """

    def __init__(self, config: ModelConfig, block: Callable[[ModelConfig, int], nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model = Stack(config, block, norm)
        own = config.has_head and not config.tied_embeddings
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False) if own else None
        self.logits = Tap(Site.LOGITS) if config.has_head else None

    def forward(self, token_ids: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions vocab"]:
        """Logits of the token after each position."""
        return self.head(self.hidden(token_ids))

    def hidden(self, token_ids: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions hidden"]:
        """The final norm's output, for losses that compute logits a slice at a time."""
        x = self.embed(token_ids)
        ropes = self.ropes(x.shape[1], device=x.device, dtype=x.dtype)
        for block, rope in zip(self.model.layers, ropes, strict=True):
            x = block(x, rope)
        return self.finish(x)

    def ropes(
        self, positions: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Rope, ...]:
        """Each block's rotation table of the first `positions` positions, in float32 at least; here all blocks share one."""
        config = self.config
        places = rope_positions(positions, device=device, dtype=dtype)
        if config.scaling is None:
            table = rope_table(places, head_dim=config.rotated, theta=config.rope_theta, yarn=config.yarn)
        else:
            table = scaled_table(
                places,
                rotary_dim=config.rotated,
                theta=config.rope_theta,
                scaling=config.scaling,
                max_positions=config.max_positions,
            )
        return (table,) * config.layers

    def embed(self, token_ids: Int[Tensor, "batch positions"]) -> Float[Tensor, "batch positions hidden"]:
        """The stream entering block 0."""
        return self.model.embedding(self.model.embed_tokens(token_ids))

    def finish(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions hidden"]:
        """The final norm of the stream leaving the last block."""
        return self.model.final_norm(self.model.norm(x), stream=x, norm=self.model.norm)

    def head(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions vocab"]:
        """Logits of normalised hidden states.

        Raises:
            OptionError: the model has no head.
        """
        if self.logits is None:
            raise OptionError("logits must come from a language-model head, which this model lacks; call model.hidden")
        return self.logits(F.linear(x, self.model.embed_tokens.weight) if self.lm_head is None else self.lm_head(x))

    @property
    def head_weight(self) -> Float[Tensor, "vocab hidden"]:
        """The matrix that `head` multiplies by, one row per token of the vocabulary."""
        return (self.model.embed_tokens if self.lm_head is None else self.lm_head).weight
