"""The link that all bodies share: one rate for all connections together.

link = Link()
link.rate = 100e6
link.wait(65536, stopping)  # returns when the bytes may go out
"""

from __future__ import annotations

import threading
import time

_PIECE_SECONDS = 0.004  # a piece sent at once occupies the link for at most this time
_CREDIT = 0.02  # seconds that a late thread may catch up


class Link:
    """Send bytes one after another at `rate` bytes per second, or at once if it is None."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._free_at = 0.0
        self._lock = threading.Lock()

    def piece_bytes(self, limit: int) -> int:
        """The number of bytes to send at once, at most `limit`."""
        return limit if self.rate is None else max(1, min(limit, int(self.rate * _PIECE_SECONDS)))

    def wait(self, count: int, stopping: threading.Event) -> None:
        """Return when `count` bytes have passed, or when the hub is stopping."""
        rate = self.rate
        if rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _CREDIT) + count / rate
            pause = self._free_at - now
        if pause > 0:
            stopping.wait(pause)
