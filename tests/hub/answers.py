"""The two halves of an exchange: the request, and the answer to be sent.

An `Answer` is data, not writing: faults damage it before a byte is sent, and only `server.py` touches a socket.

    answer = json_answer({"id": "org/name"})
    assert answer.status == 200 and answer.length == 17
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.hub.repository import Content, Memory

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(slots=True)
class Request:
    """One request as it arrived, and (once it is answered) its status.

    `path` is percent-encoded as sent, without the query. `headers` has lower-case names. `range` is half-open: `bytes=0-9`
    is (0, 10), `bytes=5-` is (5, None) and `bytes=-7` is (-7, None). `bytes_sent` counts the body handed to the socket.
    `peer` is the client's port: equal ports mean one kept-alive connection.
    """

    method: str
    host: str  # "hub" or "cdn"
    path: str
    headers: dict[str, str]
    range: tuple[int, int | None] | None = None
    status: int = 0
    bytes_sent: int = 0
    query: str = ""
    body: bytes = b""
    peer: int = 0

    @property
    def target(self) -> str:
        """Path and query, percent-decoded; faults match this text."""
        return unquote(f"{self.path}?{self.query}" if self.query else self.path)

    @property
    def parameters(self) -> dict[str, str]:
        """The query as a mapping."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def token(self) -> str | None:
        """The bearer token, if there is one."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token if kind == "Bearer" and token else None


def parse_range(header: str | None) -> tuple[int, int | None] | None:
    """The half-open span in a Range header; None if there is none, or if there are several."""
    found = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if not found or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return -int(last), None
    return int(first), int(last) + 1 if last else None


@dataclass(slots=True)
class Answer:
    """Status, headers and a span of some content; faults break it off with `cut` and `ending`.

    `declared` overrides Content-Length. After `cut` bytes the connection ends as `ending` says: "close" (FIN), "reset" (RST)
    or "stall" (a pause of `pause` seconds, then the rest); "hang_up" sends nothing at all.
    """

    status: int
    headers: dict[str, str]
    content: Content
    start: int = 0
    stop: int = 0
    cut: int | None = None
    ending: str = ""
    pause: float = 0.0

    @property
    def length(self) -> int:
        """Bytes of body."""
        return self.stop - self.start

    @property
    def carries_file(self) -> bool:
        """True if there is a body that a fault can damage."""
        return self.status in (200, 206)


@dataclass
class Refusal(Exception):
    """Raised if a request cannot be served; the hub turns it into the error headers that its client reads."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    def answer(self) -> Answer:
        """The refusal as an answer."""
        headers = {"X-Error-Message": self.message, **self.headers}
        if self.code:
            headers["X-Error-Code"] = self.code
        return json_answer({"error": self.message}, status=self.status, headers=headers)


def bytes_answer(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer whose whole body is in memory."""
    return Answer(status, dict(headers or {}), Memory(body), 0, len(body))


def json_answer(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """An answer of JSON."""
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return bytes_answer(
        json.dumps(value, separators=(",", ":")).encode(), status=status, headers=kind | (headers or {})
    )


def content_answer(content: Content, request: Request, headers: dict[str, str]) -> Answer:
    """A file, or the requested span of it: 200, 206, or 416 if the span is outside the file."""
    size = content.size
    if request.range is None:
        return Answer(200, {**headers, "Accept-Ranges": "bytes"}, content, 0, size)
    first, last = request.range
    start = max(0, size + first) if first < 0 else first
    stop = size if last is None else min(last, size)
    if start >= stop:
        return bytes_answer(b"", status=416, headers={"Content-Range": f"bytes */{size}"})
    span = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Answer(206, headers | span, content, start, stop)
