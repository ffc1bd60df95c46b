"""Bodies from a host's socket straight into the caller's buffers, over connections that are kept.

huggingface_hub's client hands out 64 KiB at a time, each copied four times; at 400 MB/s that takes a third of a core away from
the model. So it finds out where bytes are (tokens, redirects, proxies), and they are then fetched here. What this way cannot do
is left to that client: proxies, redirects, logins, and answers of unknown length.

    >>> connections = Connections()
    >>> with connections.get(address, {"range": "bytes=0-99"}, timeout=30.0) as answer:         # doctest: +SKIP
    ...     answer.read_into(memoryview(buffer))
    100
"""

from __future__ import annotations

import select
import ssl
import threading
import urllib.request
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

import httpx2

from olmo_dynamics.checkpoints.patience import UnsteadyError

_MOST_BYTES = 1 << 20  # 1 MiB at a time, so that a limited rate is even and a stop is noticed


class Answer:
    """One response: `head` as httpx2 has it, without a body, and the body's bytes on demand."""

    def __init__(self, address: str, response: HTTPResponse) -> None:
        self.head = httpx2.Response(
            response.status, headers=response.getheaders(), request=httpx2.Request("GET", address)
        )
        self._response = response
        self._left = response.length or 0

    @property
    def is_plain(self) -> bool:
        """Whether it is the part of a file that was asked for, byte by byte, and says how long it is."""
        encoded = self.head.headers.get("Content-Encoding", "identity") != "identity"
        return self.head.status_code == 206 and self._response.length is not None and not encoded

    def read_into(self, part: memoryview) -> int:
        """Receive what is there, at least a byte and at most 1 MiB; 0 at the end of the body."""
        room = part[: min(self._left, _MOST_BYTES)]
        count = self._response.fp.readinto1(room) if room and self._response.fp else 0
        self._left -= count
        return count

    @property
    def ended(self) -> bool:
        """Whether the whole body was received, so that the connection can serve again."""
        return self._left == 0 and not self._response.will_close


class Connections:
    """Open connections by host, each used by one request at a time; they end when this object does."""

    def __init__(self) -> None:
        self._idle: dict[str, list[HTTPConnection]] = defaultdict(list)
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def get(self, address: str, headers: Mapping[str, str], *, timeout: float) -> Iterator[Answer]:
        """The answer to a GET.

        Raises:
            UnsteadyError: the connection failed, or fell silent for `timeout` seconds.
        """
        parts = urlsplit(address)
        place = f"{parts.scheme}://{parts.netloc}"
        connection, ended = self._take(place, timeout), False
        try:
            connection.request("GET", address.removeprefix(place) or "/", headers=dict(headers))
            with connection.getresponse() as response:
                answer = Answer(address, response)
                yield answer
                ended = answer.ended
        except (OSError, HTTPException) as problem:
            reason = " ".join(str(problem).split()) or "no reason given"
            raise UnsteadyError(f"{parts.netloc} gave {type(problem).__name__} ({reason})") from None
        finally:
            if ended:
                self._keep(place, connection)
            else:
                connection.close()

    def _take(self, place: str, timeout: float) -> HTTPConnection:
        while kept := self._pop(place):
            if not _was_closed(kept):
                kept.sock.settimeout(timeout)
                return kept
            kept.close()
        host = place.partition("://")[2]
        if place.startswith("http:"):
            return HTTPConnection(host, timeout=timeout)
        return HTTPSConnection(host, timeout=timeout, context=self._tls)

    def _pop(self, place: str) -> HTTPConnection | None:
        with self._lock:
            return self._idle[place].pop() if self._idle[place] else None

    def _keep(self, place: str, connection: HTTPConnection) -> None:
        with self._lock:
            self._idle[place].append(connection)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpx2.create_ssl_context()


def is_reached_directly(address: str) -> bool:
    """Whether no proxy stands before an address."""
    parts = urlsplit(address)
    proxies = urllib.request.getproxies()
    proxied = parts.scheme in proxies or "all" in proxies
    return not proxied or bool(urllib.request.proxy_bypass(parts.netloc))


def _was_closed(connection: HTTPConnection) -> bool:
    """Whether the host hung up on an idle connection: there is something to read, though nothing was asked."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _close_all(idle: Mapping[str, list[HTTPConnection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()
