"""The second pass over float32 elements: the lower halves of those whose upper halves were chosen, listed or counted.

An upper half with few elements, as is usual, has a list with room for exactly as many as the first pass counted. One with very
many (a constant tensor has only one) has a table of counts.

    >>> slots = np.zeros(CODES, np.uint8)
    >>> slots[0x3F80] = 1  # the upper half of 1
    >>> room = Room.of(np.array([2]), tables=0)
    >>> gather(np.array([1.0, 2.0, 1.0000001], np.float32), slots, room)
    >>> room.lower
    array([0, 1], dtype=uint16)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8, UInt16, UInt32, UInt64

from olmo_dynamics.recorders.kernels.elements import CODES
from olmo_dynamics.recorders.kernels.jit import jit, prefetch

_GROUP = 8  # elements looked at together, of which few groups hold any that was chosen
_GROUPS = 512  # groups looked at before those that hold some are gone through
_AHEAD = 1024  # words between those that are read and those that are asked for


class Room(NamedTuple):
    """Room for the lower halves of some elements: one list after another, where each ends so far, and tables of counts."""

    lower: UInt16[np.ndarray, " n"]
    ends: Int64[np.ndarray, " lists"]
    tables: UInt32[np.ndarray, "tables codes"]

    @classmethod
    def of(cls, counts: Int64[np.ndarray, " lists"], *, tables: int) -> Room:
        """Empty lists, with room for so many each, and tables of zeros."""
        return cls(np.empty(counts.sum(), np.uint16), np.cumsum(counts) - counts, np.zeros((tables, CODES), np.uint32))


@jit
def _flags(a: np.uint64, b: np.uint64, slots: UInt8[np.ndarray, " codes"]) -> np.uint8:
    """The slots of four elements, or 0 if none has one."""
    half, low = np.uint64(16), np.uint64(0xFFFF)
    one: np.uint8 = slots[(a >> half) & low] | slots[a >> np.uint64(48)]
    other: np.uint8 = slots[(b >> half) & low] | slots[b >> np.uint64(48)]
    return one | other


@jit
def _find_groups(
    words: UInt64[np.ndarray, " n"],
    start: int,
    stop: int,
    slots: UInt8[np.ndarray, " codes"],
    found: Int64[np.ndarray, " m"],
) -> int:
    """Note the groups, from one to another, in which some element has a slot; without a branch."""
    count = 0
    for group in range(start, stop):
        first = group * (_GROUP // 2)
        prefetch(words, first + _AHEAD)
        some = _flags(words[first], words[first + 1], slots) | _flags(words[first + 2], words[first + 3], slots)
        found[count] = group
        count += int(some > 0)
    return count


@jit
def _choose(
    bits: UInt32[np.ndarray, " n"], start: int, stop: int, slots: UInt8[np.ndarray, " codes"], chosen: UInt32[np.ndarray, " m"],
    count: int,
) -> int:  # fmt: skip
    """Append the elements from one to another that have a slot to those chosen so far; without a branch."""
    for i in range(start, stop):
        chosen[count] = bits[i]
        count += int(slots[bits[i] >> np.uint32(16)] > 0)
    return count


@jit
def _put(chosen: UInt32[np.ndarray, " n"], slots: UInt8[np.ndarray, " codes"], room: Room) -> None:
    """Put the lower halves of chosen elements into their lists and tables."""
    lower, ends, tables = room
    for i in range(len(chosen)):
        slot = np.int64(slots[chosen[i] >> np.uint32(16)]) - 1
        half = chosen[i] & np.uint32(0xFFFF)
        if slot < len(ends):
            lower[ends[slot]] = half
            ends[slot] += 1
        else:
            tables[slot - len(ends), half] += np.uint32(1)


@jit
def _gather(
    bits: UInt32[np.ndarray, " n"], words: UInt64[np.ndarray, " m"], slots: UInt8[np.ndarray, " codes"], room: Room
) -> None:
    """Look at whole groups as words of two elements, and at what is left as it is."""
    groups = 2 * len(words) // _GROUP
    found, chosen = np.empty(_GROUPS, np.int64), np.empty(_GROUPS * _GROUP + 1, np.uint32)
    for start in range(0, groups, _GROUPS):
        some = _find_groups(words, start, min(start + _GROUPS, groups), slots, found)
        count = 0
        for i in range(some):
            first = found[i] * _GROUP
            count = _choose(bits, first, first + _GROUP, slots, chosen, count)
        _put(chosen[:count], slots, room)
    _put(chosen[: _choose(bits, groups * _GROUP, len(bits), slots, chosen, 0)], slots, room)


def gather(values: Float32[np.ndarray, "_ _"], slots: UInt8[np.ndarray, " codes"], room: Room) -> None:
    """List or count the lower halves of the elements whose upper halves have a slot (from 1 on: lists, then tables)."""
    flat = values.reshape(-1)
    words = flat[: flat.size // _GROUP * _GROUP].view(np.uint64)
    _gather(flat.view(np.uint32), words, slots, room)
