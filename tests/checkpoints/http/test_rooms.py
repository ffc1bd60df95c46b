"""Memory for bytes that is used again: never while anything views it, and at once when nothing does."""

from __future__ import annotations

import torch

from olmo_dynamics.checkpoints.http.rooms import IDLE_BYTES, KEPT_BYTES, Rooms


def test_room_is_used_again_only_when_no_view_of_it_is_left() -> None:
    rooms, sizes = Rooms(), [KEPT_BYTES, 10]
    large, small = rooms.take(sizes)
    at, view = large.ctypes.data, torch.from_numpy(small[2:])
    del large, small
    [other, _] = rooms.take(sizes)
    apart = other.ctypes.data
    del view
    again = [array.ctypes.data for array in rooms.take(sizes)]
    assert (apart != at, again) == (True, [at, at + KEPT_BYTES])


def test_idle_memory_is_bounded() -> None:
    rooms = Rooms()
    held = [rooms.take([IDLE_BYTES // 2])[0] for _ in range(3)]
    del held
    assert sum(map(len, rooms._idle.values())) == 2
