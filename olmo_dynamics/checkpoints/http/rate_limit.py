"""A limit on bytes per second, shared by all connections of a source.

>>> rate_limit = RateLimit()
>>> rate_limit.set(50e6)
>>> rate_limit.wait_for(1000, threading.Event())  # waits until 1000 bytes are due
"""

from __future__ import annotations

import math
import threading
import time

from olmo_dynamics.errors import OptionError

_CREDIT = 0.1  # seconds of silence that may be made up for: sleeps last longer than asked


class RateLimit:
    """Spreads bytes evenly over time: a reader that is ahead of the pace waits. There is no limit until one is set."""

    def __init__(self) -> None:
        self._seconds_per_byte = 0.0
        self._due = 0.0  # when all bytes counted so far are due, by the monotonic clock
        self._lock = threading.Lock()

    def set(self, bytes_per_second: float | None) -> None:
        """Set the pace, or lift the limit with None.

        Raises:
            OptionError: the rate is not a positive number.
        """
        self._seconds_per_byte = 1 / check_rate(bytes_per_second) if bytes_per_second is not None else 0.0

    def wait_for(self, count: int, stop: threading.Event) -> None:
        """Wait until `count` more bytes are due, or until `stop`."""
        if self._seconds_per_byte == 0.0:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - _CREDIT) + count * self._seconds_per_byte
            wait = self._due - now
        if wait > 0:
            stop.wait(wait)


def check_rate(bytes_per_second: float) -> float:
    """Return a valid rate as a float.

    Raises:
        OptionError: the rate is not a positive number.
    """
    known = isinstance(bytes_per_second, int | float) and not isinstance(bytes_per_second, bool)
    if not known or not math.isfinite(bytes_per_second) or bytes_per_second <= 0:
        raise OptionError(f"a rate must be a positive number of bytes per second, or None (got {bytes_per_second!r})")
    return float(bytes_per_second)
