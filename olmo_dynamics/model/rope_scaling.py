"""The ways to stretch rotary position embeddings to texts longer than those of pretraining.

>>> Yarn(factor=8.0, original_positions=8192).magnitude
1.2079441541679836
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from olmo_dynamics.errors import ConfigError
from olmo_dynamics.model.config_schema import MAX_POSITIONS, require_count, require_positive_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Yarn:
    """YaRN: RoPE stretched to longer texts than in pretraining, by slowing the slow pairs down `factor` times.

    Raises:
        ConfigError: the factor is below 1, or another number is not above 0.
    """

    factor: float
    original_positions: int  # the length in pretraining
    beta_fast: float = 32.0  # pairs that turn more often than this over the original positions are unchanged
    beta_slow: float = 1.0  # pairs that turn less often are stretched in full
    attention_factor: float | None = None  # `magnitude`, if it is not 0.1 ln(factor) + 1

    def __post_init__(self) -> None:
        require_count("original_max_position_embeddings", self.original_positions, MAX_POSITIONS)
        require_positive_fields(self, ("factor", "beta_fast", "beta_slow"))
        if self.attention_factor is not None:
            require_positive_fields(self, ("attention_factor",))
        _require_stretch(self.factor)

    @property
    def magnitude(self) -> float:
        """The factor of cosine and sine; attention's logits grow by its square."""
        return 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
    """Position interpolation: every pair is slowed down `factor` times. Chen et al. 2023, arXiv:2306.15595.

    Raises:
        ConfigError: the factor is below 1.
    """

    factor: float

    def __post_init__(self) -> None:
        require_positive_fields(self, ("factor",))
        _require_stretch(self.factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicScaling:
    """A base that grows with the text, once it is longer than the model's positions; shorter texts are as without.

    Raises:
        ConfigError: the factor is below 1.
    """

    factor: float

    def __post_init__(self) -> None:
        require_positive_fields(self, ("factor",))
        _require_stretch(self.factor)

    def theta(self, theta: float, *, rotary_dim: int, excess: float) -> float:
        """The base for a text `excess` times as long as the model's positions.

        It is `theta * (factor * (excess - 1) + 1)**(d / (d - 2))`, where d is `rotary_dim`, the number of rotated features.
        """
        growth: float = (self.factor * max(excess - 1, 0.0) + 1) ** (rotary_dim / (rotary_dim - 2))
        return theta * growth


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1's stretching: slow pairs are slowed down `factor` times, fast ones not at all, those between in part.

    Raises:
        ConfigError: the factor is below 1, or `low_freq_factor` is not below `high_freq_factor`.
    """

    factor: float
    low_freq_factor: float  # pairs that turn less often than this over the original positions are slowed down in full
    high_freq_factor: float  # pairs that turn more often are unchanged
    original_positions: int

    def __post_init__(self) -> None:
        require_count("original_max_position_embeddings", self.original_positions, MAX_POSITIONS)
        require_positive_fields(self, ("factor", "low_freq_factor", "high_freq_factor"))
        _require_stretch(self.factor)
        if self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                "low_freq_factor must be below high_freq_factor "
                f"(got {self.low_freq_factor!r} and {self.high_freq_factor!r}); correct the config"
            )


Scaling = LinearScaling | DynamicScaling | Llama3Scaling
"""The ways beside YaRN."""


def _require_stretch(factor: float) -> None:
    if factor < 1:
        raise ConfigError(f"factor must be at least 1 to stretch RoPE (got {factor!r}); correct the config")
