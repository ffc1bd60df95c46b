"""Standard output without what threads of a library print there of their own accord.

>>> with silenced_threads("ray_"):
...     print("this thread is heard")
this thread is heard
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


class _Heard(io.TextIOBase):
    """Passes on what other threads write."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix = stream, prefix

    def write(self, text: str) -> int:
        """Write, unless the thread is one of those."""
        if threading.current_thread().name.startswith(self._prefix):
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream beneath."""
        self._stream.flush()

    def isatty(self) -> bool:
        """True if the stream beneath is a terminal."""
        return self._stream.isatty()


@contextmanager
def silenced_threads(prefix: str) -> Iterator[None]:
    """Drop what threads whose names begin with `prefix` print while the context lasts."""
    with redirect_stdout(_Heard(sys.stdout, prefix)):
        yield
