"""A server of buckets behind the local hub's faults: every request passes on to it unless a fault strikes."""

from __future__ import annotations

from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

from tests.hub.answers import Answer, Request, bytes_answer
from tests.hub.server import LocalHub

_OWN = ("connection", "content-length", "transfer-encoding", "date", "server", "host")
"""Headers that each hop writes itself."""


@dataclass(frozen=True)
class _Size:
    """A body that is only told of, as in an answer to HEAD."""

    size: int

    def read(self, start: int, stop: int) -> bytes:
        raise AssertionError("an answer to HEAD has no body")


class FaultyServer(LocalHub):
    """Faults in front of the server at `target`; `dropped` names request headers that it is not shown."""

    def __init__(self, target: str, *, dropped: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._target = urlsplit(target).netloc
        self._dropped = dropped
        self.lost: list[str] = []  # ends of paths: the next write there is done, and its answer is lost

    def serve(self, request: Request) -> Answer:
        address = f"{request.path}?{request.query}" if request.query else request.path
        sent = {name: value for name, value in request.headers.items() if name not in (*_OWN, *self._dropped)}
        connection = HTTPConnection(self._target, timeout=60)
        try:
            connection.request(request.method, address, request.body, {**sent, "host": self._target})
            response = connection.getresponse()
            body = response.read()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in _OWN}
            if request.method == "HEAD":
                size = int(response.getheader("content-length") or 0)
                return Answer(response.status, headers, _Size(size), 0, size)
            answer = bytes_answer(body, status=response.status, headers=headers)
            for end in [each for each in self.lost if request.method == "PUT" and request.path.endswith(each)]:
                self.lost.remove(end)
                answer.ending = "hang_up"
            return answer
        finally:
            connection.close()
