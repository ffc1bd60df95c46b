"""Ctrl-C and SIGTERM, remembered rather than raised, so that what is finished can be written first.

>>> with Interruption() as interruption:
...     interruption.asked
False
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """While the context lasts, the first signal sets `asked`, and a second one is a KeyboardInterrupt.

    In a thread other than the main one, which receives no signals, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        restore(self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def handlers() -> dict[signal.Signals, Any]:
    """The handlers of both signals as they are, for `restore`; none outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {each: signal.getsignal(each) for each in _SIGNALS}


def restore(before: dict[signal.Signals, Any]) -> None:
    """Set the handlers again that were there before."""
    for each, handler in before.items():
        if handler is not None:  # one that Python did not set
            signal.signal(each, handler)
