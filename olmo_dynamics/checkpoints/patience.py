"""How often, and how long, to try again when a host stumbles.

Two kinds of failure exist: those the next try may mend (a broken connection, a busy or overloaded host) are raised as
`UnsteadyError` and tried again; everything else goes to the user at once.

    >>> def answer():
    ...     return 42
    >>> Patience(tries=3).persist(answer, "asking a host")
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


class UnsteadyError(Exception):
    """A try that failed in a way the next may not; `asked` is the pause that the host wants, in seconds.

    Where a failed try `made_headway`, the tries before it no longer count.
    """

    def __init__(self, what: str, asked: float | None = None) -> None:
        super().__init__(what)
        self.asked = asked
        self.made_headway = False


@dataclass(frozen=True)
class Patience:
    """Tries, waits between them (doubling, with jitter), and the longest silence on a connection; all in seconds.

    A pause that the host asks for is honoured up to `longest_asked`; the hub's quotas last 300 s. `sleep` waits for an
    event that ends all waiting, and is replaced where nobody should wait.
    """

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 30.0
    longest_asked: float = 360.0
    timeout: float = 30.0
    sleep: Callable[[threading.Event, float], object] = threading.Event.wait
    jitter: Callable[[], float] = random.random

    def persist(self, attempt: Callable[[], Answer], doing: str, stop: threading.Event | None = None) -> Answer:
        """The answer of the first attempt that is not `UnsteadyError`.

        Raises:
            NetworkError: none was, or the host asks for a pause that is too long.
        """
        stop, failures = stop or threading.Event(), 0
        while failures < self.tries and not (failures and stop.is_set()):
            try:
                return attempt()
            except UnsteadyError as problem:
                last = problem
            failures = 1 if last.made_headway else failures + 1
            if failures < self.tries and not stop.is_set():
                self._pause(failures, last, doing, stop)
        raise NetworkError(
            f"{doing} failed {failures} times, the last time because {last}; "
            "check the connection and run it again (folders of checkpoints need no network)"
        )

    def _pause(self, failures: int, problem: UnsteadyError, doing: str, stop: threading.Event) -> None:
        if problem.asked is None:
            seconds = min(self.first_wait * 2 ** (failures - 1), self.longest_wait) * (0.5 + 0.5 * self.jitter())
        elif problem.asked <= self.longest_asked:
            seconds = problem.asked + 1 + self.jitter()  # hosts round their seconds down
        else:
            raise NetworkError(
                f"{doing} failed because {problem} and asks for a pause of {problem.asked:.0f} s; "
                "run it again later, or log in with `hf auth login` for higher limits"
            )
        level = logging.WARNING if seconds >= _LONG_PAUSE else logging.INFO
        _LOG.log(level, "%s: %s; trying again in %.0f s", doing, problem, seconds)
        self.sleep(stop, seconds)
