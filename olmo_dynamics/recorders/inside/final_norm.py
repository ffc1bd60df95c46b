"""The final norm as a linear map: its scale is held fixed at that of the stream, so that parts of the stream add up.

>>> share = FixedNorm.of(norm, stream)  # doctest: +SKIP
>>> share(embedding) + share(written)  # norm(stream), if the stream is their sum  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class FixedNorm:
    """`gain * x * scale`, with `x - mean(x)` for `x` if the norm centres, and one scale for each token.

    A norm's bias belongs to no part of the stream, and is left out.
    """

    scale: Float[Tensor, "tokens 1"]
    gain: Tensor | None
    centres: bool

    @classmethod
    def of(cls, norm: nn.Module, stream: Float[Tensor, "tokens width"]) -> Self:
        """The map of a norm at these vectors: of an RMS norm, or of one that centres."""
        gain = getattr(norm, "weight", None)
        centres = not isinstance(norm, nn.RMSNorm)
        centred = stream - stream.mean(-1, keepdim=True) if centres else stream
        scale = (centred.square().mean(-1, keepdim=True) + float(norm.eps)).rsqrt()  # type: ignore[arg-type]
        return cls(scale, None if gain is None else gain.to(stream.dtype), centres)

    def __call__(self, vectors: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """A part of the stream as the head reads it."""
        scaled = (vectors - vectors.mean(-1, keepdim=True) if self.centres else vectors) * self.scale
        return scaled if self.gain is None else scaled * self.gain
