"""Growth exponents: how the stream and its gradient grow from the first block to the last.

>>> growth = Growth(layers=2)
>>> growth.add(0, torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
>>> growth.add(1, torch.tensor([[6.0, 8.0]]), torch.tensor([[0.5, 0.0]]))
>>> {name: round(value, 4) for name, value in growth.exponents().items() if "vecmean" in name}  # ln(2) / 2, ln(1/2) / 2
{'lambda_vecmean_activation': 0.3466, 'lambda_vecmean_gradient': -0.3466}
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class _Sums:
    """Sums over the tokens of a layer, in float64: of vectors, and of their norms."""

    vector: Float[Tensor, " width"] | float = 0.0
    norm: float = 0.0

    def add(self, values: Float[Tensor, "tokens width"]) -> None:
        wide = values.double()
        self.vector = self.vector + wide.sum(dim=0)
        self.norm += float(wide.norm(dim=1).sum())

    @property
    def of_mean(self) -> float:
        return float(torch.as_tensor(self.vector).norm())


@dataclass
class Growth:
    """Sums of the streams that leave the first and the last block, and of their gradients; the number of tokens cancels."""

    layers: int
    _sums: dict[tuple[str, int], _Sums] = field(default_factory=dict)

    def add(
        self, layer: int, activations: Float[Tensor, "tokens width"], gradients: Float[Tensor, "tokens width"]
    ) -> None:
        """Add tokens of a layer; layers between the first and the last do not count."""
        if layer in (0, self.layers - 1):
            for kind, values in (("activation", activations), ("gradient", gradients)):
                self._sums.setdefault((kind, layer), _Sums()).add(values)

    def exponents(self) -> dict[str, float]:
        """`ln(last / first) / layers` in both conventions; NaN where one of them is zero or not finite."""
        found = {}
        for kind in ("activation", "gradient"):
            first, last = (self._sums.get((kind, layer), _Sums()) for layer in (0, self.layers - 1))
            found[f"lambda_vecmean_{kind}"] = self._exponent(first.of_mean, last.of_mean)
            found[f"lambda_meannorm_{kind}"] = self._exponent(first.norm, last.norm)
        return found

    def _exponent(self, first: float, last: float) -> float:
        usable = all(math.isfinite(each) and each > 0 for each in (first, last))
        return math.log(last / first) / self.layers if usable else math.nan
