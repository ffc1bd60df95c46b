"""Stored bytes as NumPy arrays: floats of at most 32 bits as float32, which is exact, and all others as they are.

>>> decoded(np.array([0x80, 0x3F], np.uint8), "BF16")
array([1.], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import numpy as np

_OWN = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8",
    "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_NARROW = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")

READABLE = frozenset((*_OWN, *_NARROW))
"""The stored dtypes that can be read, by their safetensors names."""


def array_dtype(stored: Collection[str], *, complete: bool) -> np.dtype:
    """The dtype of an array that holds tensors of these stored dtypes; with NaN for missing elements unless complete."""
    if all(name in _NARROW for name in stored):
        return np.dtype(np.float32)
    [first, *others] = set(stored)
    return np.dtype(_OWN[first]) if complete and not others else np.dtype(np.float64)


def decoded(raw: np.ndarray, stored: str) -> np.ndarray:
    """The elements in bytes (uint8, one axis) of a stored dtype, as one axis."""
    if stored == "BF16":
        words: np.ndarray = np.left_shift(raw.view("<u2"), 16, dtype=np.uint32)
        return words.view(np.float32)
    if stored.startswith("F8_"):
        return _eight_bits(stored).take(raw)
    values = raw.view(_OWN[stored])
    return values.astype(np.float32) if stored == "F16" else values


@cache
def _eight_bits(stored: str) -> np.ndarray:
    """The value of each code of a float of 8 bits: that of float16 cut off, or 1-4-3 with bias 7 and no infinity."""
    codes = np.arange(256, dtype=np.uint16)
    if stored == "F8_E5M2":
        return (codes << 8).view(np.float16).astype(np.float32)
    exponent, fraction = (codes >> 3 & 15).astype(np.float64), (codes & 7) / 8
    sizes = np.where(exponent > 0, (1 + fraction) * 2 ** (exponent - 7), fraction * 2.0**-6)
    sizes[codes & 127 == 127] = np.nan
    return np.where(codes < 128, sizes, -sizes).astype(np.float32)
