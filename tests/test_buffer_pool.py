"""Memory for bytes that is used again: never while anything views it, and at once when nothing does."""

from __future__ import annotations

import torch

from olmo_dynamics.buffer_pool import BufferPool

LEAST, IDLE = 1 << 20, 1 << 25


def test_memory_is_used_again_only_when_no_view_of_it_is_left() -> None:
    pool, sizes = BufferPool(least_bytes=LEAST, idle_bytes=IDLE), [LEAST, 10]
    large, small = pool.take(sizes)
    at, view = large.ctypes.data, torch.from_numpy(small[2:])
    del large, small
    [other, _] = pool.take(sizes)
    apart = other.ctypes.data
    del view
    again = [array.ctypes.data for array in pool.take(sizes)]
    assert (apart != at, again) == (True, [at, at + LEAST])


def test_idle_memory_is_bounded() -> None:
    pool = BufferPool(least_bytes=LEAST, idle_bytes=IDLE)
    held = [pool.take([IDLE // 2])[0] for _ in range(3)]
    del held
    assert sum(map(len, pool._idle.values())) == 2
