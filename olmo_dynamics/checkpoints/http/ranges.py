"""Ranged requests: spans of files, cut into requests, each with the buffers that receive its bytes.

>>> buffer = np.empty(100, np.uint8)
>>> [(request.at, request.stop) for request in plan_requests([(Span("a", 0, 100), buffer)], limit=60)]
[(0, 60), (60, 100)]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from olmo_dynamics.checkpoints.tensors import Span

CONNECTIONS = 4

REQUEST_BYTES = 32 << 20
"""Most bytes that one request over a network asks for, 32 MiB: it fills a connection, and four share a large tensor."""

SMALL_REQUEST_BYTES = 4 << 20  # 4 MiB; below it a request's latency costs more than a shared connection saves


def request_bytes(total: int) -> int:
    """Most bytes per request where `total` bytes are read: a share of them that occupies every connection."""
    return min(REQUEST_BYTES, max(SMALL_REQUEST_BYTES, -(-total // CONNECTIONS)))


@dataclass(slots=True)
class Request:
    """Bytes `at` to `stop` of a file, still to be received, and the buffers that they go to, in order."""

    file: str
    at: int
    stop: int
    parts: deque[memoryview] = field(default_factory=deque)

    def write(self, chunk: memoryview) -> None:
        """Copy a received chunk into the buffers; bytes beyond `stop` are dropped."""
        while self.parts and chunk:
            count = min(len(self.parts[0]), len(chunk))
            self.parts[0][:count] = chunk[:count]
            chunk = chunk[count:]
            self.advance(count)

    def advance(self, count: int) -> None:
        """Note that the first `count` bytes of the first buffer have been received."""
        self.at += count
        if count == len(self.parts[0]):
            self.parts.popleft()
        else:
            self.parts[0] = self.parts[0][count:]


def plan_requests(targets: Sequence[tuple[Span, np.ndarray]], limit: int = REQUEST_BYTES) -> list[Request]:
    """Requests of at most `limit` bytes that fill every buffer: neighbouring spans are joined, long ones split."""
    requests: list[Request] = []
    for span, buffer in sorted(targets, key=lambda pair: pair[0]):
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
