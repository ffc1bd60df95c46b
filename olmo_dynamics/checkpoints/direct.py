"""Bodies from a host's socket straight into the caller's buffers, over connections that are kept.

huggingface_hub's client hands out 64 KiB at a time, each copied four times; at 400 MB/s that takes a third of a core away from
the model. So it finds out where bytes are (tokens, redirects, proxies), and they are then fetched here. What this way cannot do
is left to that client: proxies, redirects, logins, and answers of unknown length; and everything, where someone gave it a
client of their own (`set_client_factory`), whose proxy or certificates we cannot know.

    >>> connections = Connections()
    >>> with connections.get(address, {"range": "bytes=0-99"}, timeout=30.0, waits=Waits()) as answer:  # doctest: +SKIP
    ...     answer.read_into(memoryview(buffer))
    100
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import urllib.request
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

import httpx2
from huggingface_hub.utils import _http
from huggingface_hub.utils._http import default_client_factory

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


class UnreachableError(UnsteadyError):
    """No connection could be made at all; another client may know a way."""


class Waits:
    """The sockets that threads wait on; `end` wakes them all, and whoever comes later does not wait."""

    def __init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._ended = False

    @contextmanager
    def on(self, waited: socket.socket | None) -> Iterator[None]:
        """While the block runs, `end` may break the connection.

        Raises:
            UnsteadyError: all waiting was ended before.
        """
        with self._lock:
            if self._ended:
                raise UnsteadyError("nobody waits for the answer any longer")
            if waited is not None:
                self._sockets.add(waited)
        try:
            yield
        finally:
            with self._lock:
                self._sockets -= {waited}

    def end(self) -> None:
        """Break every connection that is waited on: closing a socket would not wake its reader, shutting it down does."""
        with self._lock:
            self._ended = True
            for waited in self._sockets:
                with suppress(OSError):
                    socket.socket.shutdown(waited, socket.SHUT_RDWR)  # TLS's own would let its reader see ciphertext


class Connections:
    """Open connections by host, each used by one request at a time; they end when this object does."""

    def __init__(self) -> None:
        self._idle: dict[str, list[HTTPConnection]] = defaultdict(list)
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def get(self, address: str, headers: Mapping[str, str], *, timeout: float, waits: Waits) -> Iterator[Answer]:
        """The answer to a GET; `waits` can end the waiting for it.

        Raises:
            UnreachableError: none could be made.
            UnsteadyError: the connection failed, or fell silent for `timeout` seconds.
        """
        parts = urlsplit(address)
        place = f"{parts.scheme}://{parts.netloc}"
        connection, ended = self._take(place, timeout), False
        try:
            _connect(connection)
            with waits.on(connection.sock), self._ask(connection, address.removeprefix(place), headers) as response:
                answer = Answer(address, response)
                yield answer
                ended = answer.ended
        except (OSError, HTTPException) as problem:
            raise UnsteadyError(_reason(connection, problem)) from None
        finally:
            if ended:
                self._keep(place, connection)
            else:
                connection.close()

    def _ask(self, connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> HTTPResponse:
        connection.request("GET", path or "/", headers=dict(headers))
        return connection.getresponse()

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


def _connect(connection: HTTPConnection) -> None:
    if connection.sock is None:
        try:
            connection.connect()
        except OSError as problem:
            raise UnreachableError(_reason(connection, problem)) from None


def _reason(connection: HTTPConnection, problem: Exception) -> str:
    reason = " ".join(str(problem).split()) or "no reason given"
    return f"{connection.host}:{connection.port} gave {type(problem).__name__} ({reason})"


def is_reached_directly(address: str) -> bool:
    """Whether no proxy stands before an address, as far as the environment and huggingface_hub's client tell."""
    if getattr(_http, "_GLOBAL_CLIENT_FACTORY", None) is not default_client_factory:
        return False
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
