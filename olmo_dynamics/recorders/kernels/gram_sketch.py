"""A linear sketch of the U-centred Gram matrix of some tokens, from which unbiased linear CKA follows; made tile by tile.

    >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    >>> sketch, norm = gram_sketch(vectors)
    >>> bool(np.isclose(np.linalg.norm(sketch), norm)), int((sketch != 0).sum())
    (True, 10)

Of N tokens with vectors x, the U-centred Gram matrix (Székely and Rizzo 2014, arXiv:1310.2926) has the diagonal 0 and elsewhere

    U_ij = K_ij - (r_i + r_j) / (N - 2) + t / ((N - 1) (N - 2)),   K_ij = x_i·x_j off the diagonal and 0 on it,

with r the sums of the rows of K and t their sum. The sum of the products U_ij V_ij over N (N - 3) is the unbiased estimate of
HSIC (Song et al. 2012), so the cosine of two such matrices is unbiased linear CKA.

A component of the sketch is sqrt(2) times a sum of U_ij over pairs i < j under random signs. The pair with number p = i N + j,
tokens counted from 0, is added to component r mod size with the sign of bit 63 of r (-1 if it is set), where

    r = splitmix64(start, p);  start = the first 8 bytes of SHA-256("olmo_dynamics gram sketch SEED/N"), little-endian

If there are at most `size` pairs, each has a component of its own, in order, and the sketch is the matrix itself. The map depends
on the seed, N and the size alone: neither on the width of vectors nor on what they are.

The dot product of two sketches is an unbiased estimate of the sum of U_ij V_ij (count sketch: Charikar et al. 2002), so the
cosine ρ of two sketches has a standard error of about (1 - ρ²) / sqrt(size).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.sketching import splitmix64

GRAM_SIZE = 4096
"""The number of components."""

GRAM_SEED = 0
"""The public seed of signs and components."""

LEAST_TOKENS = 4
"""The fewest tokens of which a Gram matrix can be U-centred and compared."""

TILE = 256  # tokens whose products with all others are whole at a time


def gram_sketch(
    vectors: Float[Tensor, "tokens width"], *, size: int = GRAM_SIZE, seed: int = GRAM_SEED
) -> tuple[Float64[np.ndarray, " size"], float]:
    """The sketch of the tokens' U-centred Gram matrix, and the matrix's own norm; NaN of fewer than 4 tokens.

    Vectors are centred in float64. Their products are float32 (float64 of float64 vectors), and sums of these float64.
    """
    tokens = len(vectors)
    if tokens < LEAST_TOKENS:
        return np.full(size, np.nan), float("nan")
    centred = vectors.double()
    centred = (centred - centred.mean(dim=0)).to(torch.promote_types(vectors.dtype, torch.float32))
    shifts = _shifts(centred)
    sums, start = np.zeros(size), sketch_start(tokens, seed)
    squares = 0.0
    for first in range(0, tokens, TILE):
        tile = (centred[first : first + TILE] @ centred[first:].T).cpu().numpy()
        squares += _add_pairs(tile, first, shifts, start, tokens * (tokens - 1) // 2 <= size, sums)
    return np.sqrt(2) * sums, float(np.sqrt(2 * squares))


def sketch_start(tokens: int, seed: int) -> np.uint64:
    """The state from which the random words of all pairs of so many tokens follow."""
    digest = hashlib.sha256(f"olmo_dynamics gram sketch {seed}/{tokens}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def _shifts(centred: Float[Tensor, "tokens width"]) -> Float64[np.ndarray, " tokens"]:
    """The number s_i of each token for which U_ij = K_ij + s_i + s_j."""
    tokens, doubles = len(centred), centred.double()
    rows = doubles @ doubles.sum(dim=0) - (doubles**2).sum(dim=1)
    shifts = rows.sum() / (2 * (tokens - 1) * (tokens - 2)) - rows / (tokens - 2)
    found: np.ndarray = shifts.cpu().numpy()
    return found


@jit
def _add_pairs(
    tile: Float[np.ndarray, "rows columns"],
    first: int,
    shifts: Float64[np.ndarray, " tokens"],
    start: np.uint64,
    apart: bool,
    sums: Float64[np.ndarray, " size"],
) -> float:
    """Add the pairs i < j of a tile, whose rows and columns begin with token `first`; returns the sum of their squares.

    A pair has a component of its own where they are kept `apart`. Squares are summed in a loop that writes nothing: of one that
    writes too, the order of the sum would depend on where its arrays lie in memory.
    """
    tokens, size, squares = len(shifts), np.uint64(len(sums)), 0.0
    values = np.empty(tile.shape[1])
    for row in range(tile.shape[0]):
        i = first + row
        for column in range(row + 1, tile.shape[1]):
            values[column] = np.float64(tile[row, column]) + shifts[i] + shifts[first + column]
        for column in range(row + 1, tile.shape[1]):
            squares += values[column] * values[column]
        for column in range(row + 1, tile.shape[1]):
            j = first + column
            if apart:
                sums[i * tokens - i * (i + 1) // 2 + j - i - 1] = values[column]
            else:
                word = splitmix64(start, np.uint64(i * tokens + j))
                sums[word % size] += -values[column] if word >> np.uint64(63) else values[column]
    return squares
