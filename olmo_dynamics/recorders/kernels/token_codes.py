"""Activations as recorders read them: the codes of their floats, and the rows of real tokens.

    >>> observed = token_codes(torch.zeros(2, 3, 8, dtype=torch.bfloat16), np.ones((2, 3), dtype=bool))
    >>> observed.first, observed.rest, observed.codes.dtype
    (array([0, 3]), array([1, 2, 4, 5]), dtype('uint16'))

A code is a float's bits as an unsigned integer. bfloat16 stays 16 bits wide until it is summed: no tensor is converted whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt
from torch import Tensor

_CODES = {torch.bfloat16: torch.uint16, torch.float32: torch.uint32, torch.float64: torch.uint64}


@dataclass(frozen=True)
class TokenRows:
    """The rows of real tokens at the first position of their sequence, and those of the others, in order."""

    first: Int64[np.ndarray, " first"]
    rest: Int64[np.ndarray, " rest"]

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "batch positions"], first_position: int = 0) -> TokenRows:
        """The rows where `mask` is true; `first_position` is the place in its sequence of the first one given."""
        first = mask & (first_position + np.arange(mask.shape[1]) == 0)
        return cls(np.flatnonzero(first), np.flatnonzero(mask & ~first))


@dataclass(frozen=True)
class TokenCodes:
    """Vectors of tokens, and the rows of those at the first position of their sequence and of the other real ones."""

    codes: UInt[np.ndarray, "tokens width"]
    first: Int64[np.ndarray, " first"]
    rest: Int64[np.ndarray, " rest"]

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.codes.shape[1])


def codes_of(x: Float[Tensor, "*axes"]) -> UInt[np.ndarray, "*axes"]:
    """The bits of a bfloat16, float32 or float64 tensor (others become float32), copied only if they must be."""
    if x.dtype not in _CODES:
        x = x.float()
    if x.requires_grad:
        x = x.detach()
    codes: np.ndarray = x.contiguous().cpu().view(_CODES[x.dtype]).numpy()
    return codes


def values_of(codes: UInt[np.ndarray, "*axes"]) -> Float[np.ndarray, "*axes"]:
    """The numbers that codes stand for, in float64."""
    if codes.itemsize == 2:
        codes = codes.astype(np.uint32) << 16
    with np.errstate(invalid="ignore"):  # converting a signalling NaN counts as an invalid operation
        values: np.ndarray = codes.view(f"f{codes.itemsize}").astype(np.float64)
    return values


def token_codes(
    x: Float[Tensor, "batch positions width"],
    mask: Bool[np.ndarray, "batch positions"],
    first_position: int = 0,
    rows: TokenRows | None = None,
) -> TokenCodes:
    """The tokens where `mask` is true (`rows`, if known); `first_position` is the place in its sequence of the first one."""
    known = rows or TokenRows.of(mask, first_position)
    return TokenCodes(codes_of(x).reshape(-1, x.shape[-1]), known.first, known.rest)
