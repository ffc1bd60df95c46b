"""Faults between a client and a hub, each switchable.

hub.add_fault(Fault("429", "/refs", wait=0))                          # the next listing of refs: too many requests
hub.add_fault(Fault("short", "model.safetensors", host="cdn", keep=100, times=None))  # every body ends after 100 bytes
hub.add_fault(Fault("503", probability=0.1, seed=7, times=None))      # one request in ten, the same ones each time
hub.add_fault(Fault("hook", "/resolve/main/", method="GET", call=lambda: hub.set_branch("org/name", "main", files)))
"""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.hub.answers import Answer, Refusal, Request, bytes_answer
from tests.hub.repository import Content, Memory, as_content

STATUSES = ("400", "401", "403", "404", "408", "429", "500", "502", "503", "504")
"""Answers these in place of the true one. 429 gives the time to wait in RateLimit, or in Retry-After."""

EARLY = (*STATUSES, "hang_up", "hook", "slow", "expired")
"""Kinds that strike before the request is read; the others damage a body on its way, so they skip redirects and errors."""

LATE = ("short", "reset", "stall", "ignore_range", "gzip", "wrong_payload", "wrong_size", "missing_headers")


@dataclass
class Fault:
    """One fault, with the requests that it strikes.

    kind            what happens
    -------------   --------------------------------------------------------------------------------------------------
    "400" … "504"   that status; 429 with `RateLimit: "api";r=0;t=wait`, or with `Retry-After: retry_after` where given
    "hang_up"       the connection closes before a byte of answer
    "hook"          `call()` runs, then the request is served as usual: move a branch between two requests
    "slow"          `seconds` pass, then the request is served as usual
    "expired"       403, as from a signed URL past its time
    "short"         full Content-Length, but the connection closes (FIN) after `keep` bytes
    "reset"         the same, but with a reset (RST)
    "stall"         after `keep` bytes, nothing for `seconds`; then the rest
    "ignore_range"  200 and the whole file where a range was asked for
    "gzip"          compressed and whole, range or not, for a client that accepts gzip: what a CDN does to text files
    "wrong_payload" the right length, other bytes: those of `payload`, or every bit flipped
    "wrong_size"    `keep` bytes and a Content-Length that agrees with them; HEAD names that size too
    "missing_headers" the headers that only a hub sends (X-Repo-Commit, ETag, X-Linked-*) are left out

    `path` is a part of the percent-decoded path and query (a CDN address holds the file's name in its query), or a function
    of the `Request`. Of the requests that match, the first `after` are let through, then `times` are struck (None: all),
    each with `probability`. `keep` is half the body unless given.
    """

    kind: str
    path: str | Callable[[Request], bool] = ""
    times: int | None = 1
    after: int = 0
    probability: float = 1.0
    seed: int = 0
    host: str | None = None
    method: str | None = None
    active: bool = True
    wait: int = 0
    retry_after: str | None = None
    seconds: float = 0.0
    keep: int | None = None
    payload: bytes | Path | Content | None = None
    call: Callable[[], object] | None = None
    struck: int = field(default=0, init=False)
    _seen: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in EARLY + LATE:
            raise ValueError(f"fault kind must be one of {', '.join(EARLY + LATE)}; got {self.kind!r}")
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    @property
    def early(self) -> bool:
        """True if it strikes before the request is read."""
        return self.kind in EARLY

    def strikes(self, request: Request) -> bool:
        """True if this request is struck; each call counts the request."""
        if not self.active or not self._matches(request):
            return False
        with self._lock:
            self._seen += 1
            spent = self.times is not None and self.struck >= self.times
            if self._seen <= self.after or spent or self._random.random() >= self.probability:
                return False
            self.struck += 1
            return True

    def _matches(self, request: Request) -> bool:
        if self.host not in (None, request.host) or self.method not in (None, request.method):
            return False
        return self.path(request) if callable(self.path) else self.path in request.target

    def can_spoil(self, request: Request, answer: Answer) -> bool:
        """True if the answer has the part that this (late) kind damages."""
        if self.kind == "missing_headers":
            return "X-Repo-Commit" in answer.headers
        if self.kind == "wrong_size" and request.method == "HEAD":
            return "X-Linked-Size" in answer.headers or answer.carries_file
        if self.kind == "ignore_range" and answer.status != 206:
            return False
        if self.kind == "gzip" and "gzip" not in request.headers.get("accept-encoding", ""):
            return False
        return answer.carries_file and request.method != "HEAD"

    def replace(self) -> Answer | None:
        """The answer that an early kind gives in place of the true one; None if it only delays or prepares it."""
        if self.kind == "hang_up":
            answer = bytes_answer(b"")
            answer.ending = "hang_up"
            return answer
        if self.kind == "expired":
            return expired_answer()
        if self.kind == "429":
            return Refusal(429, "", "We had to rate limit you", self._how_long()).answer()
        if self.kind in STATUSES:
            return Refusal(int(self.kind), "", f"fault {self.kind}", self._how_long()).answer()
        return None

    def _how_long(self) -> dict[str, str]:
        if self.retry_after is not None:
            return {"Retry-After": self.retry_after}
        if self.kind != "429":
            return {}
        return {"RateLimit": f'"api";r=0;t={self.wait}', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}

    def spoil(self, request: Request, answer: Answer) -> None:
        """Damage an answer that is about to be sent."""
        keep = answer.length // 2 if self.keep is None else self.keep
        match self.kind:
            case "short":
                answer.cut, answer.ending = keep, "close"
            case "reset" | "stall":
                answer.cut, answer.ending, answer.pause = keep, self.kind, self.seconds
            case "ignore_range":
                _make_whole(answer)
            case "gzip":
                packed = gzip.compress(answer.content.read(0, answer.content.size), mtime=0)
                answer.content, answer.headers["Content-Encoding"] = Memory(packed), "gzip"
                _make_whole(answer)
            case "wrong_payload":
                answer.content = as_content(self.payload) if self.payload is not None else _Flipped(answer.content)
            case "wrong_size":
                _resize(answer, self.keep)
            case "missing_headers":
                for name in ("X-Repo-Commit", "ETag", "X-Linked-ETag", "X-Linked-Size"):
                    answer.headers.pop(name, None)


def _make_whole(answer: Answer) -> None:
    answer.status, answer.start, answer.stop = 200, 0, answer.content.size
    answer.headers.pop("Content-Range", None)


def _resize(answer: Answer, size: int | None) -> None:
    if "X-Linked-Size" in answer.headers:
        told = int(answer.headers["X-Linked-Size"])
        answer.headers["X-Linked-Size"] = str(told // 2 if size is None else size)
    if answer.carries_file:
        answer.stop = answer.start + (answer.length // 2 if size is None else size)


def expired_answer() -> Answer:
    """The storage's answer to an expired address."""
    body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
    return bytes_answer(body, status=403, headers={"Content-Type": "application/xml"})


_FLIP = bytes(byte ^ 0xFF for byte in range(256))


class _Flipped:
    """Content of the same length with every bit flipped."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.size = content.size

    def read(self, start: int, stop: int) -> bytes:
        return bytes(self._content.read(start, stop)).translate(_FLIP)
