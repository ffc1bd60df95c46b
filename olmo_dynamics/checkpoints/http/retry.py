"""Retries: how often, and after how long a wait, a failed request is sent again.

There are two kinds of failure. Those that the next try may mend (a broken connection, a busy or overloaded host) are raised
as `TransientError` and retried; every other failure goes to the user at once.

    >>> def answer():
    ...     return 42
    >>> RetryPolicy(tries=3).call(answer, "asking a host")
    42
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from olmo_dynamics.errors import NetworkError

_LOG = logging.getLogger(__name__)
_LONG_PAUSE = 10.0  # seconds from which a user wonders what is going on

Answer = TypeVar("Answer")


class TransientError(Exception):
    """A failed try that is worth repeating; `retry_after` is the pause that the host asks for, in seconds.

    After a failed try that `made_progress`, the failures before it no longer count.
    """

    def __init__(self, what: str, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.retry_after = retry_after
        self.made_progress = False


class UnreachableError(TransientError):
    """No connection could be made at all; another client may know a way."""


@dataclass(frozen=True)
class RetryPolicy:
    """Tries, waits between them (doubling, with jitter), and the longest silence on a connection; all in seconds.

    A pause that the host asks for is honoured up to `longest_retry_after`; the hub's quotas last 300 s. `sleep` waits for an
    event that ends all waiting; tests replace it so as not to wait. With `connect_once`, a host to which no connection can
    be made is not tried again.
    """

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 30.0
    longest_retry_after: float = 360.0
    timeout: float = 30.0
    connect_once: bool = False
    sleep: Callable[[threading.Event, float], object] = threading.Event.wait
    jitter: Callable[[], float] = random.random

    def call(self, attempt: Callable[[], Answer], doing: str, stop: threading.Event | None = None) -> Answer:
        """The result of the first attempt that does not raise `TransientError`.

        Raises:
            NetworkError: every attempt failed, or the host asks for a pause that is too long.
        """
        stop, failures = stop or threading.Event(), 0
        while failures < self.tries and not (failures and stop.is_set()):
            try:
                return attempt()
            except TransientError as problem:
                last = problem
            failures = 1 if last.made_progress else failures + 1
            if self.connect_once and isinstance(last, UnreachableError):
                break
            if failures < self.tries and not stop.is_set():
                self._pause(failures, last, doing, stop)
        raise NetworkError(
            f"{doing} failed {_times(failures)}because {last}; "
            "check the connection and run it again (folders of checkpoints need no network)"
        )

    def _pause(self, failures: int, problem: TransientError, doing: str, stop: threading.Event) -> None:
        if problem.retry_after is None:
            seconds = min(self.first_wait * 2 ** (failures - 1), self.longest_wait) * (0.5 + 0.5 * self.jitter())
        elif problem.retry_after <= self.longest_retry_after:
            seconds = problem.retry_after + 1 + self.jitter()  # hosts round their seconds down
        else:
            raise NetworkError(
                f"{doing} failed because {problem} and asks for a pause of {problem.retry_after:.0f} s; "
                "run it again later, or log in with `hf auth login` for higher limits"
            )
        level = logging.WARNING if seconds >= _LONG_PAUSE else logging.INFO
        _LOG.log(level, "%s: %s; trying again in %.0f s", doing, problem, seconds)
        self.sleep(stop, seconds)


def _times(failures: int) -> str:
    return "" if failures == 1 else f"{failures} times, the last time "
