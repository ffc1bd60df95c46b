"""Products of a matrix's Gram matrix with a few vectors, from one pass over the stored bytes.

    >>> matrix = ScaledMatrix.of(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), abs_max=4.0)
    >>> found = matrix.times_gram(np.eye(2))
    >>> found * matrix.unit**2
    array([[ 9.,  0.],
           [ 0., 16.]])

For W [m, n] and V [n, k], W^T (W V) needs each element of W twice. Both products are taken while four rows of it lie in the
nearest cache, so a pass costs one reading of the bytes however many vectors there are. Elements are divided by a power of two
near the largest magnitude, which changes no digit, so that no square overflows or vanishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from olmo_dynamics.recorders.kernels.jit import jit

Run = Callable[[Callable[[slice], Any], Iterable[slice]], Iterable[Any]]
"""A function like the built-in `map`, which may share the work among threads."""

_ROWS = 4  # at a time: each number of V, and of the result, is loaded once for so many elements of W
_TILE = 2048  # columns at a time: four rows of float32 stay in the nearest cache
_PIECE = 1 << 21  # elements of a piece of rows, which one thread reads
_SAFE = 1e30  # magnitudes up to it, and down to its inverse, are read as they are stored


@dataclass(frozen=True)
class ScaledMatrix:
    """A matrix in its stored dtype, taken as divided by `unit`, a power of two; threads share its rows."""

    values: Shaped[Tensor, "rows columns"]
    unit: float
    run: Run = field(default=map, repr=False)

    @classmethod
    def of(cls, values: Shaped[Tensor, "rows columns"], abs_max: float, run: Run = map) -> Self:
        """The matrix with elements of at most 1; `abs_max`, its largest magnitude, is finite and above 0."""
        return cls(values, float(2.0 ** min(np.ceil(np.log2(abs_max)), 1023)), run)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.values.shape
        return rows, columns

    @property
    def pieces(self) -> list[slice]:
        """Rows by pieces, which depend on the shape alone, so that sums do not depend on the threads."""
        rows, columns = self.shape
        height = max(_ROWS, _PIECE // columns // _ROWS * _ROWS)
        return [slice(first, min(first + height, rows)) for first in range(0, rows, height)]

    def times_gram(self, vectors: Float[np.ndarray, "columns some"]) -> Float[np.ndarray, "columns some"]:
        """W^T W V of the scaled matrix; sums of at most a few million elements are in float32."""
        return self._products(vectors, np.float32)[0]

    def exact_products(
        self, vectors: Float[np.ndarray, "columns some"]
    ) -> tuple[Float[np.ndarray, "columns some"], Float[np.ndarray, " some"]]:
        """W^T W V of the scaled matrix, and the squared norms of the columns of W V; all in float64."""
        return self._products(vectors, np.float64)

    def blocks(self, *, rows: int, transposed: bool = False) -> Iterator[Float[Tensor, "rows columns"]]:
        """Blocks of rows (of columns, if transposed) of the scaled matrix in float64."""
        values = self.values.T if transposed else self.values
        for first in range(0, len(values), rows):
            yield values[first : first + rows].double() / self.unit

    def _products(self, vectors: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        parts = list(self.run(self._product_of_piece(vectors, dtype), self.pieces))
        return np.sum([found for found, _ in parts], axis=0), np.sum([squares for _, squares in parts], axis=0)

    def _product_of_piece(self, vectors: np.ndarray, dtype: Any) -> Callable[[slice], tuple[np.ndarray, np.ndarray]]:
        """A function that gives a piece's products: of elements as they are stored, or of converted ones."""
        columns, count = vectors.shape
        if not 1 / _SAFE < self.unit < _SAFE or self.values.dtype not in (torch.bfloat16, torch.float32):
            return partial(self._converted, vectors=torch.from_numpy(vectors.astype(dtype)))
        rows = np.zeros((count + count % 2, columns), dtype)  # in pairs
        rows[:count] = vectors.T / self.unit

        def stored(part: slice) -> tuple[np.ndarray, np.ndarray]:
            found, squares = np.zeros_like(rows), np.zeros(len(rows))
            _add_products(*_words(self.values[part].contiguous()), rows, found, squares)
            return found[:count].T / np.float64(self.unit), squares[:count]

        return stored

    def _converted(self, part: slice, vectors: Tensor) -> tuple[np.ndarray, np.ndarray]:
        block = (self.values[part].double() / self.unit).to(vectors.dtype)
        images = block @ vectors
        return (block.T @ images).double().numpy(), images.double().square().sum(0).numpy()


def _words(values: Tensor) -> tuple[np.ndarray, np.uint32]:
    """The elements as whole numbers, and the bits by which these are shifted to be those of float32."""
    if values.dtype is torch.bfloat16:
        return values.view(torch.uint16).numpy(), np.uint32(16)
    return values.view(torch.uint32).numpy(), np.uint32(0)


@jit
def _add_products(
    words: Shaped[np.ndarray, "rows columns"],
    shift: np.uint32,
    vectors: Float[np.ndarray, "some columns"],
    found: Float[np.ndarray, "some columns"],
    squares: Float[np.ndarray, " some"],
) -> None:
    """Add W^T (W v) of each vector to a row of `found`, and the square of ‖W v‖ to `squares`; sums have the vectors' dtype."""
    rows, columns = words.shape
    bits = np.zeros((_ROWS, columns), np.uint32)
    held = bits.view(np.float32)
    dots = np.empty((len(vectors), _ROWS), vectors.dtype)
    for row in range(0, rows, _ROWS):
        dots[:] = 0
        if row + _ROWS > rows:
            bits[:] = 0
        for first in range(0, columns, _TILE):
            last = min(columns, first + _TILE)
            for place in range(min(_ROWS, rows - row)):
                _widen(words[row + place, first:last], shift, bits[place, first:last])
            a, b, c, d = held[0, first:last], held[1, first:last], held[2, first:last], held[3, first:last]
            for pair in range(0, len(vectors), 2):
                _add_dots(a, b, c, d, vectors[pair, first:last], vectors[pair + 1, first:last], dots[pair : pair + 2])
        for first in range(0, columns, _TILE):
            last = min(columns, first + _TILE)
            a, b, c, d = held[0, first:last], held[1, first:last], held[2, first:last], held[3, first:last]
            for pair in range(0, len(vectors), 2):
                _add_rows(a, b, c, d, dots[pair : pair + 2], found[pair, first:last], found[pair + 1, first:last])
        for place in range(len(vectors)):
            for dot in dots[place]:
                squares[place] += np.float64(dot) * np.float64(dot)


@jit
def _widen(words: np.ndarray, shift: np.uint32, bits: np.ndarray) -> None:
    for place in range(len(words)):
        bits[place] = np.uint32(words[place]) << shift


@jit
def _add_dots(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, x: np.ndarray, y: np.ndarray, dots: np.ndarray
) -> None:
    """Add the dot products of four rows with two vectors."""
    xa, xb, xc, xd = dots[0, 0], dots[0, 1], dots[0, 2], dots[0, 3]
    ya, yb, yc, yd = dots[1, 0], dots[1, 1], dots[1, 2], dots[1, 3]
    for i in range(len(x)):
        xa += a[i] * x[i]
        xb += b[i] * x[i]
        xc += c[i] * x[i]
        xd += d[i] * x[i]
        ya += a[i] * y[i]
        yb += b[i] * y[i]
        yc += c[i] * y[i]
        yd += d[i] * y[i]
    dots[0, 0], dots[0, 1], dots[0, 2], dots[0, 3] = xa, xb, xc, xd
    dots[1, 0], dots[1, 1], dots[1, 2], dots[1, 3] = ya, yb, yc, yd


@jit
def _add_rows(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, dots: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    """Add four rows, each times its dot product, to two vectors."""
    xa, xb, xc, xd = dots[0, 0], dots[0, 1], dots[0, 2], dots[0, 3]
    ya, yb, yc, yd = dots[1, 0], dots[1, 1], dots[1, 2], dots[1, 3]
    for i in range(len(x)):
        x[i] += (a[i] * xa + b[i] * xb) + (c[i] * xc + d[i] * xd)
        y[i] += (a[i] * ya + b[i] * yb) + (c[i] * yc + d[i] * yd)
