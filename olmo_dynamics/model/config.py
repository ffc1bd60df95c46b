"""The shape of one model.

`olmo_dynamics.model.config_json` reads a `ModelConfig` from a checkpoint's `config.json`, and writes it back.

    >>> from olmo_dynamics.model.config import ModelConfig
    >>> config = ModelConfig(model_type="olmo3", hidden_size=64, layers=4, heads=4, kv_heads=2, head_dim=16,
    ...                      intermediate_size=128, vocab_size=100, max_positions=32, norm_eps=1e-6, rope_theta=5e5,
    ...                      sliding_window=8, sliding_layers=(0, 1, 2))
    >>> config.kv_width, [config.window(layer) for layer in range(config.layers)]
    (32, [8, 8, 8, None])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from olmo_dynamics.errors import ConfigError
from olmo_dynamics.model.config_schema import (
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_WIDTH,
    brief,
    require_count,
    require_positive_fields,
)
from olmo_dynamics.model.family import PLAIN, Family, family_of
from olmo_dynamics.model.rope_scaling import DynamicScaling, Scaling, Yarn

PARTS = (
    "clip_qkv", "sliding_window", "sliding_layers", "sliding_rope_theta", "experts", "scaling", "attention_bias", "mlp_bias",
    "rotary_dim", "activation", "parallel_residual", "norms",
)  # fmt: skip
"""The fields of a `ModelConfig` that only some families have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts in place of each MLP: every token goes to the `per_token` experts with the highest scores.

    Raises:
        ConfigError: a token goes to more experts than there are.
    """

    count: int
    per_token: int
    renormalized: bool = False  # True if the chosen experts' probabilities are divided by their sum

    def __post_init__(self) -> None:
        require_count("num_experts", self.count)
        require_count("num_experts_per_tok", self.per_token)
        if self.per_token > self.count:
            raise ConfigError(
                f"num_experts_per_tok must be at most num_experts (got {self.per_token} and {self.count}); "
                "correct the config"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """The kind of a model's norms, in a family whose config chooses among several."""

    centred: bool = False  # LayerNorm, which subtracts the mean; otherwise RMS
    weight: bool = True
    bias: bool = False  # beside each weight
    on_queries: bool = False  # and on keys, over all heads at once
    query_weight: bool = True  # of the norms of queries and keys


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of one model; `parse_config` reads it from a `config.json`.

    Raises:
        UnknownModelError: the model type has no forward pass here.
        ConfigError: numbers contradict each other, or a field is given that the family does not have.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int  # of one expert, where there are experts
    vocab_size: int  # rows of the embedding, padding rows included
    max_positions: int
    norm_eps: float
    rope_theta: float
    tied_embeddings: bool = False  # the head reads the embedding's rows
    has_head: bool = True  # False for the trunk of another model, such as a reward model: no logits
    model_type: str = PLAIN
    yarn: Yarn | None = None  # stretches the full layers' RoPE; sliding layers never need it
    clip_qkv: float | None = None  # queries, keys and values are clipped to ±this
    sliding_window: int | None = None  # positions visible to a token of a sliding layer, including its own
    sliding_layers: tuple[int, ...] = ()
    sliding_rope_theta: float | None = None  # of sliding layers; None: the same as elsewhere
    experts: Experts | None = None
    scaling: Scaling | None = None  # stretches RoPE in another way than YaRN
    attention_bias: bool = False  # of all four projections
    mlp_bias: bool = False
    rotary_dim: int | None = None  # features of a head that are rotated, the first ones; None: all
    activation: str | None = None  # of an MLP without a gate
    parallel_residual: bool = False  # attention and the MLP read the same stream
    norms: Norms | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        family = family_of(self.model_type)
        for name, most in _COUNTS.items():
            require_count(name, getattr(self, name), most)
        require_positive_fields(self, ("norm_eps", "rope_theta"))
        require_positive_fields(
            self, (name for name in ("clip_qkv", "sliding_rope_theta") if getattr(self, name) is not None)
        )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"heads must be a multiple of kv_heads (got {self.heads} and {self.kv_heads}); correct the config"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim must be even, because RoPE turns pairs (got {self.head_dim}); correct the config"
            )
        if self.rotary_dim is not None and (self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim):
            raise ConfigError(
                f"rotary_dim must be even and from 2 to head_dim (got {self.rotary_dim} of {self.head_dim}); correct the config"
            )
        if self.yarn and not self.rope_theta > 1:
            raise ConfigError(f"rope_theta must be above 1 for YaRN (got {self.rope_theta!r}); correct the config")
        if self.yarn and self.scaling:
            raise ConfigError(f"scaling must be left out beside yarn (got {self.scaling!r}); correct the config")
        if isinstance(self.scaling, DynamicScaling) and self.rotated < 4:
            raise ConfigError(
                f"head_dim must be at least 4 for dynamic RoPE scaling (got {self.rotated}); correct the config"
            )
        self._check_parts(family)

    def _check_parts(self, family: Family) -> None:
        for part in PARTS:
            given = getattr(self, part)
            if part not in family.parts and given not in (None, False, ()):
                raise ConfigError(
                    f"{part} must be left out for {self.model_type}, which does not have it (got {given!r}); "
                    "correct the config"
                )
            if part in family.needed and given is None:
                raise ConfigError(f"{part} must be given for {self.model_type} (got None); correct the config")
        if self.sliding_layers:
            require_count("sliding_window", self.sliding_window, MAX_POSITIONS)
        outside = sorted(layer for layer in set(self.sliding_layers) if not 0 <= layer < self.layers)
        if outside:
            raise ConfigError(
                f"sliding_layers must be layers of 0 to {self.layers - 1} (got {outside}); correct the config"
            )

    @property
    def query_width(self) -> int:
        """Features of all queries of one token: `heads * head_dim`."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all keys (or values) of one token: `kv_heads * head_dim`."""
        return self.kv_heads * self.head_dim

    @property
    def rotated(self) -> int:
        """Features of a head that RoPE rotates."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    def window(self, layer: int) -> int | None:
        """The number of positions visible to a token of this layer, including its own; None if all before it are visible."""
        return self.sliding_window if layer in self.sliding_layers else None


_COUNTS = {
    "layers": MAX_LAYERS,
    "max_positions": MAX_POSITIONS,
    **dict.fromkeys(
        ("hidden_size", "heads", "kv_heads", "head_dim", "query_width", "intermediate_size", "vocab_size"), MAX_WIDTH
    ),
}


def refuse(key: str, given: object, needed: str) -> NoReturn:
    """Reject a key of a `config.json` that asks for a computation which is not implemented.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{key} must be {needed} for the forward pass implemented here (got {brief(given)}); record parameters only"
    )
