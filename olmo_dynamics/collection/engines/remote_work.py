"""The work of a collection as it travels to workers: once, and whole, so that a worker needs nothing but its source.

>>> work = RemoteWork.of(opener, revisions, threads=4)  # doctest: +SKIP
>>> work.measure("stage1-step1000-tokens3B", rate=None, send=print).name  # doctest: +SKIP
'stage1-step1000-tokens3B'
"""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Self

from olmo_dynamics.auditing.quarantine import QuarantineEntry
from olmo_dynamics.checkpoints import Source
from olmo_dynamics.checkpoints.source_needs import hub_token
from olmo_dynamics.collection.computing import require_device
from olmo_dynamics.collection.engines.local_engine import LocalEngine
from olmo_dynamics.collection.engines.outcome import Outcome
from olmo_dynamics.collection.fetch_plan import Bounds
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.errors import OlmoDynamicsError
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress
from olmo_dynamics.settings import adopt_hub_token

_PAUSE = 0.5  # seconds between two messages on the bytes of one revision


@dataclass(frozen=True)
class RemoteWork:
    """The revisions to measure, and all that holds for each of them; the setup holds the token ids of the probe.

    `token` is the hub's, which becomes part of the worker's environment.
    """

    source: Source
    setup: CollectionSetup
    bounds: Bounds
    threads: int
    revisions: Mapping[str, Revision]
    groups: Mapping[str, tuple[str, ...]]
    partly: Mapping[str, QuarantineEntry]
    token: str = field(repr=False)

    @classmethod
    def of(cls, opener: Opener, revisions: Sequence[Revision], threads: int) -> Self:
        """The work of measuring some revisions."""
        names = {each.name: each for each in revisions}
        return cls(
            opener.source,
            opener.setup,
            opener.bounds,
            threads,
            names,
            {name: groups for name, groups in opener.groups.items() if name in names},
            {name: entry for name, entry in opener.partly.items() if name in names},
            hub_token(opener.source),
        )

    def measure(self, name: str, rate: float | None, send: Callable[[int], object]) -> Outcome:
        """Measure one revision in this process; `send` is told bytes as they are measured.

        `rate` limits the bytes received per second, None for no limit.
        """
        try:
            adopt_hub_token(self.token)
            require_device(self.setup.options.device)
            self.source.limit_rate(rate)
            opener = Opener(self.source, self.setup.options, self.bounds)
            opener.adopt(self.setup, self.groups, self.partly)
            outcomes = LocalEngine(self.threads).outcomes(opener, [self.revisions[name]], _Sent(send))
            with closing(opener), closing(outcomes):
                outcome = next(outcomes)
        except Exception as error:
            outcome = Outcome(name, error=error)
        return outcome if outcome.error is None else replace(outcome, error=portable(outcome.error))


class _Sent(Progress):
    """Sends bytes on, those of many steps together."""

    def __init__(self, send: Callable[[int], object]) -> None:
        self._send, self._waiting, self._last = send, 0, time.monotonic()

    def advance(self, nbytes: int) -> None:
        """Count bytes, and send what was counted now and then."""
        self._waiting += nbytes
        if time.monotonic() - self._last >= _PAUSE:
            self._send(self._waiting)
            self._waiting, self._last = 0, time.monotonic()


def portable(error: Exception) -> Exception:
    """An error that another process can read; an unexpected one tells where it was raised.

    >>> portable(ValueError("no")).__notes__[0].splitlines()[-1]
    'ValueError: no'
    """
    if not isinstance(error, OlmoDynamicsError):
        error.add_note("on the worker:\n" + "".join(traceback.format_exception(error)).rstrip())
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # its own bytes
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.__notes__ = list(getattr(error, "__notes__", ()))
        return plain
    return error
