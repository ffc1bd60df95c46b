"""The link that all bodies share: one rate for every connection together.

link = Link()
link.rate = 100e6
link.wait(65536, stopping)  # returns when the bytes may go out
"""

from __future__ import annotations

import threading
import time

_PIECE_SECONDS = 0.004  # what goes out at once fills the link for so long at most
_CREDIT = 0.02  # seconds that late wakers may make up for


class Link:
    """Bytes go out one after another at `rate` bytes per second, or at once where it is None."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._free_at = 0.0
        self._lock = threading.Lock()

    def piece_bytes(self, limit: int) -> int:
        """How many bytes to send at once, at most `limit`."""
        return limit if self.rate is None else max(1, min(limit, int(self.rate * _PIECE_SECONDS)))

    def wait(self, count: int, stopping: threading.Event) -> None:
        """Return when `count` bytes have passed, or at the end of all things."""
        rate = self.rate
        if rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _CREDIT) + count / rate
            pause = self._free_at - now
        if pause > 0:
            stopping.wait(pause)
