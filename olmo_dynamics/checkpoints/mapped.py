"""A file as an array that views the page cache: nothing is copied, and nothing is read before it is used.

>>> file = MappedFile("model.safetensors")                                                      # doctest: +SKIP
>>> header = file.bytes[8:1000]                                                                 # doctest: +SKIP
>>> file.release(0, 1 << 20)  # these pages no longer count as this process's memory            # doctest: +SKIP
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np


class MappedFile:
    """The `bytes` of a file (uint8, one axis, read-only); it is unmapped when the last array that views it is freed."""

    def __init__(self, path: str | Path) -> None:
        self._map: mmap.mmap | None = None
        self.bytes = np.frombuffer(b"", np.uint8)
        with Path(path).open("rb") as file:
            if file.seek(0, 2):  # an empty file cannot be mapped
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self.bytes = np.frombuffer(self._map, np.uint8)

    def release(self, start: int, stop: int) -> None:
        """Return the pages that hold these bytes; using them again reads the file again."""
        first = start - start % mmap.PAGESIZE
        if self._map is not None and stop > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, stop - first)
