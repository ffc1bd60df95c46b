"""Spans of files as requests for ranges, each with the buffers that its bytes go to.

>>> buffer = np.empty(100, np.uint8)
>>> [(request.at, request.stop) for request in plan_requests([(Span("a", 0, 100), buffer)], limit=60)]
[(0, 60), (60, 100)]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from olmo_dynamics.checkpoints.source import REQUEST_BYTES
from olmo_dynamics.checkpoints.tensors import Span


@dataclass(slots=True)
class Request:
    """Bytes `at` to `stop` of a file, still to come, and the buffers that they go to, in order."""

    file: str
    at: int
    stop: int
    parts: deque[memoryview] = field(default_factory=deque)

    def write(self, chunk: memoryview) -> None:
        """Take what has come; bytes beyond `stop` are left."""
        while self.parts and chunk:
            count = min(len(self.parts[0]), len(chunk))
            self.parts[0][:count] = chunk[:count]
            chunk = chunk[count:]
            self.advance(count)

    def advance(self, count: int) -> None:
        """Note that the first `count` bytes of the first buffer have come."""
        self.at += count
        if count == len(self.parts[0]):
            self.parts.popleft()
        else:
            self.parts[0] = self.parts[0][count:]


def plan_requests(wanted: Sequence[tuple[Span, np.ndarray]], limit: int = REQUEST_BYTES) -> list[Request]:
    """Requests of at most `limit` bytes that fill every buffer: neighbouring spans are joined, long ones split."""
    requests: list[Request] = []
    for span, buffer in sorted(wanted, key=lambda pair: pair[0]):
        view = buffer.data
        at = span.start
        while view:
            last = requests[-1] if requests else None
            room = limit - sum(map(len, last.parts)) if last and (last.file, last.stop) == (span.file, at) else 0
            if last is None or room == 0:
                last, room = Request(span.file, at, at), limit
                requests.append(last)
            last.parts.append(view[:room])
            at += len(view[:room])
            last.stop = at
            view = view[room:]
    return requests
