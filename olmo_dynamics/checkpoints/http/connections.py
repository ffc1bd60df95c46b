"""Kept connections to storage hosts, which receive bodies from the socket straight into the caller's buffers.

huggingface_hub's client hands out 64 KiB at a time, each copied four times; at 400 MB/s that takes a third of a core away from
the model. So that client finds out where bytes are (tokens, redirects, proxies), and they are then fetched here. Everything else
is left to it: proxies, redirects, logins, and responses of unknown length; and all requests, where the user has set a client
factory (`set_client_factory`), whose proxy or certificates are not known here.

    >>> connections, headers = Connections(), {"range": "bytes=0-99"}
    >>> with connections.get(address, headers, timeout=30.0, pending=PendingReads()) as response:  # doctest: +SKIP
    ...     response.read_into(memoryview(buffer))
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

from olmo_dynamics.checkpoints.http.retry import TransientError, UnreachableError

_MOST_BYTES = 1 << 20  # 1 MiB at a time, so that a limited rate is even and a stop is noticed


class DirectResponse:
    """One response: `head` as an httpx2 response without a body, and the body's bytes on demand."""

    def __init__(self, address: str, response: HTTPResponse) -> None:
        self.head = httpx2.Response(
            response.status, headers=response.getheaders(), request=httpx2.Request("GET", address)
        )
        self._response = response
        self._left = response.length or 0

    @property
    def is_plain(self) -> bool:
        """True if it is the requested part of a file, unencoded and of known length."""
        encoded = self.head.headers.get("Content-Encoding", "identity") != "identity"
        return self.head.status_code == 206 and self._response.length is not None and not encoded

    def read_into(self, part: memoryview) -> int:
        """Receive the bytes that are there, at least one and at most 1 MiB; 0 at the end of the body."""
        room = part[: min(self._left, _MOST_BYTES)]
        count = self._response.fp.readinto1(room) if room and self._response.fp else 0
        self._left -= count
        return count

    @property
    def is_finished(self) -> bool:
        """True if the whole body was received and the connection can be used again."""
        return self._left == 0 and not self._response.will_close


class PendingReads:
    """The sockets that threads are reading from; `cancel` ends these reads, and every later one at once."""

    def __init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cancelled = False

    @contextmanager
    def add(self, read: socket.socket | None) -> Iterator[None]:
        """While the block runs, `cancel` may break the connection.

        Raises:
            TransientError: the reads were cancelled before.
        """
        with self._lock:
            if self._cancelled:
                raise TransientError("the reading was cancelled")
            if read is not None:
                self._sockets.add(read)
        try:
            yield
        finally:
            with self._lock:
                self._sockets -= {read}

    def cancel(self) -> None:
        """Break every connection that is being read: closing a socket would not wake its reader, shutting it down does."""
        with self._lock:
            self._cancelled = True
            for read in self._sockets:
                with suppress(OSError):
                    socket.socket.shutdown(read, socket.SHUT_RDWR)  # TLS's own would let its reader see ciphertext


class Connections:
    """Open connections by host, each used by one request at a time; they end when this object does."""

    def __init__(self) -> None:
        self._idle: dict[str, list[HTTPConnection]] = defaultdict(list)
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    @contextmanager
    def get(
        self, address: str, headers: Mapping[str, str], *, timeout: float, pending: PendingReads
    ) -> Iterator[DirectResponse]:
        """The response to a GET; `pending` can cancel it.

        Raises:
            UnreachableError: no connection could be made.
            TransientError: the connection failed, or fell silent for `timeout` seconds.
        """
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
        connection, is_finished = self._open(origin, timeout), False
        try:
            _connect(connection)
            path = address.removeprefix(origin)
            with pending.add(connection.sock), self._request(connection, path, headers) as received:
                response = DirectResponse(address, received)
                yield response
                is_finished = response.is_finished
        except (OSError, HTTPException) as problem:
            raise TransientError(_reason(connection, problem)) from None
        finally:
            if is_finished:
                self._keep(origin, connection)
            else:
                connection.close()

    def _request(self, connection: HTTPConnection, path: str, headers: Mapping[str, str]) -> HTTPResponse:
        connection.request("GET", path or "/", headers=dict(headers))
        return connection.getresponse()

    def _open(self, origin: str, timeout: float) -> HTTPConnection:
        while kept := self._pop(origin):
            if not _was_closed(kept):
                kept.sock.settimeout(timeout)
                return kept
            kept.close()
        host = origin.partition("://")[2]
        if origin.startswith("http:"):
            return HTTPConnection(host, timeout=timeout)
        return HTTPSConnection(host, timeout=timeout, context=self._tls)

    def _pop(self, origin: str) -> HTTPConnection | None:
        with self._lock:
            return self._idle[origin].pop() if self._idle[origin] else None

    def _keep(self, origin: str, connection: HTTPConnection) -> None:
        with self._lock:
            self._idle[origin].append(connection)

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
    """True if no proxy stands before an address, as far as the environment and huggingface_hub's client tell."""
    if not uses_default_client():
        return False
    parts = urlsplit(address)
    proxies = urllib.request.getproxies()
    proxied = parts.scheme in proxies or "all" in proxies
    return not proxied or bool(urllib.request.proxy_bypass(parts.netloc))


def uses_default_client() -> bool:
    """True if huggingface_hub's HTTP client is its own, not one of the user's factory.

    The library lets users set the factory, but has no public way to read it. If its private names change, this is False, and
    all bytes are read through the library: slower, but right.
    """
    default = getattr(_http, "default_client_factory", None)
    return default is not None and getattr(_http, "_GLOBAL_CLIENT_FACTORY", None) is default


def _was_closed(connection: HTTPConnection) -> bool:
    """True if the host hung up on an idle connection: there is something to read, though nothing was asked."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _close_all(idle: Mapping[str, list[HTTPConnection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()
