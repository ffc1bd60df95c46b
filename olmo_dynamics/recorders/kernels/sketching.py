"""A linear sketch of a tensor: a few sums of its elements under random signs, from which distances follow.

    >>> raw = np.arange(6, dtype=np.float32).view(np.uint8)
    >>> info = TensorInfo("model.norm.weight", "F32", (6,), "f", 0, 24)
    >>> sketch(raw, info, size=64)[:7]
    array([0., 1., 2., 3., 4., 5., 0.])

A tensor of at most `size` elements is its own sketch. A longer one, in row-major order, is cut into blocks of `size`
neighbours. Element j of block b is added to component (j + rotation[b]) mod size, with the sign table[offset[b] + j] *
flip[b]. All are drawn by the generator splitmix64, of which draw(s, n) is output n, counted from 0, when it starts at s:

    start = the first 8 bytes of SHA-256("olmo_dynamics sketch SEED/NAME/AxB"), little-endian; AxB is the shape
    r = draw(start, b);  rotation[b] = (r mod 2**32) mod size;  offset[b] = (r // 2**32 mod 2**31) mod (63 * size)
    flip[b] = -1 if r >= 2**63 else 1;  table[m] = -1 if bit (m mod 64) of draw(start + 1, m // 64) is set, else 1

So a sketch is linear in the tensor. The dot product of two sketches is an unbiased estimate of the dot product of the
tensors (count sketch: Charikar et al. 2002), whose variance for B full blocks is (1 - 1/B) (‖x‖² ‖y‖² + (x·y)²) / size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, UInt8, UInt32

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.recorders.kernels.jit import float32_of, jit

SKETCH_SIZE = 1024
"""The default number of components."""

SKETCH_SEED = 0
"""The public seed: sketches of equal seed and size, of tensors of equal name and shape, can be compared."""

SKETCH_SCHEME = "rotated blocks 1"
"""The name of the definition above."""

WORD = 64
"""Bits of a random word; the number of components is a multiple of it."""

_TABLE_BLOCKS = 64  # signs in the table, in blocks
_FLUSH = 16  # blocks that are added up in float32 before their sum is added in float64
_PIECE_BYTES = 8 << 20


Run = Callable[[Callable[[slice], np.ndarray], Iterable[slice]], Iterable[np.ndarray]]
"""Calls a function for each piece and gives the results in order: `map`, or that of a pool of threads."""


@dataclass(frozen=True)
class SketchPlan:
    """The random draws for one tensor, and the pieces that may be read at the same time."""

    info: TensorInfo
    size: int
    start: np.uint64
    table: UInt32[np.ndarray, " signs"]

    @classmethod
    def of(cls, info: TensorInfo, size: int, seed: int = SKETCH_SEED) -> SketchPlan:
        """The plan for a tensor of more than `size` elements."""
        shape = "x".join(map(str, info.shape))
        digest = hashlib.sha256(f"olmo_dynamics sketch {seed}/{info.name}/{shape}".encode()).digest()
        start = np.uint64(int.from_bytes(digest[:8], "little"))
        table = np.empty(_TABLE_BLOCKS * size, dtype=np.uint32)
        _draw_table(start, table)
        return cls(info, size, start, table)

    @property
    def pieces(self) -> list[slice]:
        """Elements by pieces of about 8 MiB, which depend on the tensor alone."""
        whole = self.size * _FLUSH
        step = max(whole, _PIECE_BYTES // (self.info.nbytes // self.info.size) // whole * whole)
        return [slice(first, min(first + step, self.info.size)) for first in range(0, self.info.size, step)]

    def add_up(self, raw: UInt8[np.ndarray, " bytes"], piece: slice) -> Float[np.ndarray, " size"]:
        """One piece's part of the sketch, given all bytes of the tensor."""
        item = self.info.nbytes // self.info.size
        held = raw[piece.start * item : piece.stop * item]
        sums, block = np.zeros(2 * self.size), piece.start // self.size
        if self.info.dtype == "BF16":
            _add_bits(_readable(held, np.uint16), np.uint32(16), self.start, block, self.table, sums)
        elif self.info.dtype == "F32":
            _add_bits(_readable(held, np.uint32), np.uint32(0), self.start, block, self.table, sums)
        else:
            _add_doubles(_floats(held, self.info.dtype), self.start, block, self.table, sums)
        folded: np.ndarray = sums[: self.size] + sums[self.size :]
        return folded


def sketch(
    raw: UInt8[np.ndarray, " bytes"],
    info: TensorInfo,
    *,
    size: int = SKETCH_SIZE,
    seed: int = SKETCH_SEED,
    run: Run = map,
) -> Float[np.ndarray, " size"]:
    """The sketch of a tensor's bytes. NaN and infinities spread as in sums.

    `run` may add up its pieces by several threads; their order, and so the sum, depends on the tensor alone.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape needs.
    """
    check_bytes(raw, info)
    if info.size <= size:
        return verbatim(raw, info, size)
    plan = SketchPlan.of(info, size, seed)
    found: np.ndarray = np.sum(list(run(partial(plan.add_up, raw), plan.pieces)), axis=0)
    return found


def verbatim(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo, size: int) -> Float[np.ndarray, " size"]:
    """The elements of a tensor that has at most `size` of them, followed by zeros."""
    found = np.zeros(size)
    found[: info.size] = _floats(raw, info.dtype)
    return found


def check_bytes(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo) -> None:
    """Check that there are as many bytes as the shape needs.

    Raises:
        CheckpointError: there are more or fewer.
    """
    if raw.nbytes != info.nbytes:
        raise CheckpointError(
            f"{info.name} must have {info.nbytes} bytes for its shape (got {raw.nbytes}); fetch it again"
        )


def _floats(raw: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (_readable(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    kinds: dict[str, type[np.generic]] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    return _readable(raw, kinds[dtype]).astype(np.float64)


def _readable(raw: np.ndarray, dtype: type[np.generic]) -> np.ndarray:
    """The bytes as numbers, read-only, and copied if they are not aligned, so that one compiled version serves all."""
    aligned = raw.view() if raw.ctypes.data % 8 == 0 else raw.copy()
    aligned.flags.writeable = False
    return aligned.view(dtype)


@jit
def splitmix64(start: np.uint64, place: np.uint64) -> np.uint64:
    """Output `place`, counted from 0, of splitmix64 (Steele et al. 2014)."""
    word = start + (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@jit
def _draw_table(start: np.uint64, table: UInt32[np.ndarray, " signs"]) -> None:
    """Signs, where a float32 has its own; all other bits are 0."""
    for word in range(len(table) // WORD):
        bits = splitmix64(start + np.uint64(1), np.uint64(word))
        for lane in range(WORD):
            table[WORD * word + lane] = np.uint32((bits >> np.uint64(lane)) & np.uint64(1)) << np.uint32(31)


@jit
def _places(start: np.uint64, block: int, size: int) -> tuple[np.int64, np.int64, np.uint32]:
    """Rotation, offset in the table, and flip (a sign bit) of a block."""
    drawn = splitmix64(start, np.uint64(block))
    rotation = np.int64((drawn & np.uint64(0xFFFFFFFF)) % np.uint64(size))
    offset = np.int64(((drawn >> np.uint64(32)) & np.uint64(0x7FFFFFFF)) % np.uint64(63 * size))
    return rotation, offset, np.uint32(drawn >> np.uint64(63)) << np.uint32(31)


@jit
def _flush(part: Float[np.ndarray, " twice"], sums: Float[np.ndarray, " twice"]) -> None:
    for place in range(len(sums)):
        sums[place] += part[place]
        part[place] = np.float32(0)


@jit
def _add_block(
    bits: np.ndarray, shift: np.uint32, signs: np.ndarray, flip: np.uint32, sums: Float[np.ndarray, " block"]
) -> None:
    for lane in range(len(bits)):
        sums[lane] += float32_of((np.uint32(bits[lane]) << shift) ^ (signs[lane] ^ flip))


@jit
def _add_bits(
    bits: np.ndarray, shift: np.uint32, start: np.uint64, first: int, table: np.ndarray, sums: np.ndarray
) -> None:
    """Add numbers whose bits, shifted to the left, are those of a float32."""
    size = len(sums) // 2
    part = np.zeros(2 * size, dtype=np.float32)
    for block in range(-(-len(bits) // size)):
        values = bits[block * size : (block + 1) * size]
        rotation, offset, flip = _places(start, first + block, size)
        signs, there = table[offset : offset + size], part[rotation : rotation + size]
        _add_block(values, shift, signs, flip, there)
        if block % _FLUSH == _FLUSH - 1:
            _flush(part, sums)
    _flush(part, sums)


@jit
def _add_doubles(doubles: np.ndarray, start: np.uint64, first: int, table: np.ndarray, sums: np.ndarray) -> None:
    size = len(sums) // 2
    for block in range(-(-len(doubles) // size)):
        values = doubles[block * size : (block + 1) * size]
        rotation, offset, flip = _places(start, first + block, size)
        for lane in range(len(values)):
            negative = (table[offset + lane] ^ flip) != 0
            sums[rotation + lane] += -values[lane] if negative else values[lane]
