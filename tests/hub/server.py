"""A hub on this machine: two servers on loopback that the real `huggingface_hub` client talks to.

with LocalHub() as hub:
    hub.add_repo("org/name", {"main": {"config.json": b"{}", "model.safetensors": weights}})
    api = HfApi(endpoint=hub.endpoint)
    assert [branch.name for branch in api.list_repo_refs("org/name").branches] == ["main"]
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.hub.answers import Answer, Request, parse_range
from tests.hub.api import answer_cdn, answer_hub
from tests.hub.faults import Fault
from tests.hub.link import Link
from tests.hub.repository import Commit, Content, OnDisk, Repository, as_files

Files = str | Path | Mapping[str, bytes | Path | Content]
"""A folder, or a mapping from a file's name to its bytes, its path, or anything with `size` and `read(start, stop)`."""

_CHUNK = 1 << 20  # 1 MiB
_TICK = 0.02  # seconds between two writes of a throttled body


class LocalHub:
    """A hub and its storage on two ports of 127.0.0.1, alive inside a `with`.

    `requests` lists every `Request` in order of arrival; `faults` is the list of what goes wrong; both may be cleared.
    Set before adding a repo: `large_threshold` (bytes from which a file is in LFS). Set at any time: `rate` (bytes per second
    and connection, None for no limit), `total_rate` (the same for all connections together), `page_size` (items a page of a
    listing), `url_lifetime` (seconds a signed address lives), `warning` (an X-HF-Warning, `topic; text`), `xet` (whether
    large files are said to be in Xet too). `tokens` are those that log in; any other token is refused everywhere.
    `renamed` maps a repo's old name to its new one, to which the hub then redirects.
    """

    def __init__(self) -> None:
        self.large_threshold = 1 << 20  # 1 MiB
        self.rate: float | None = None
        self.link = Link()
        self.xet = False
        self.page_size = 1000
        self.url_lifetime = 3600.0
        self.warning = ""
        self.tokens: set[str] = set()
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.secret = secrets.token_bytes(16)
        self.stopping = threading.Event()
        self._servers = {"hub": _Server(self, "hub"), "cdn": _Server(self, "cdn")}

    @property
    def endpoint(self) -> str:
        """The value for HF_ENDPOINT, or `HfApi(endpoint=…)`."""
        return self._servers["hub"].address

    @property
    def cdn_endpoint(self) -> str:
        """The address to which large files are redirected."""
        return self._servers["cdn"].address

    @property
    def total_rate(self) -> float | None:
        """Bytes per second over all connections together."""
        return self.link.rate

    @total_rate.setter
    def total_rate(self, bytes_per_second: float | None) -> None:
        self.link.rate = bytes_per_second

    def add_repo(
        self,
        name: str,
        branches: Mapping[str, Files],
        *,
        private: bool = False,
        gated: str | None = None,
        token: str | None = None,
    ) -> Repository:
        """Publish a repo; `token` is one that may read it if it is private or gated."""
        repository = Repository(name, private, gated)
        if token:
            self.tokens.add(token)
            repository.tokens.add(token)
        self.repositories[name] = repository
        for branch, files in branches.items():
            self.set_branch(name, branch, files)
        return repository

    def set_branch(self, name: str, branch: str, files: Files) -> Commit:
        """Make a branch, or move it to a new commit; the old commit stays readable by its hash."""
        return self.repositories[name].commit(branch, as_files(files), large_threshold=self.large_threshold)

    def add_fault(self, fault: Fault) -> Fault:
        """Switch a fault on; take it out of `faults`, or set its `active`, to switch it off."""
        self.faults.append(fault)
        return fault

    def respond(self, request: Request) -> Answer:
        """The answer to a request, damaged by the faults that strike it."""
        for fault in [each for each in self.faults if each.early and each.strikes(request)]:
            if fault.call:
                fault.call()
            self.stopping.wait(fault.seconds)
            if replacement := fault.replace():
                return replacement
        answer = self.serve(request)
        for fault in self.faults:
            if not fault.early and fault.can_spoil(request, answer) and fault.strikes(request):
                fault.spoil(request, answer)
        return answer

    def serve(self, request: Request) -> Answer:
        """The true answer; whatever else is to stand behind the faults overrides it."""
        return (answer_hub if request.host == "hub" else answer_cdn)(self, request)

    def __enter__(self) -> Self:
        for server in self._servers.values():
            server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        for server in self._servers.values():
            server.stop()
        failures = [failure for server in self._servers.values() for failure in server.failures]
        if failures and error is None:
            raise failures[0]


class _Server(ThreadingHTTPServer):
    """One port. It tracks its open connections, so that stopping leaves no thread and no socket behind."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, hub: LocalHub, host: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if sys.platform == "linux":  # others pace what they send by timers, which doubles the CPU time here
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        self.hub = hub
        self.host = host
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.failures: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(_TICK,), name=f"local {host}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                _hang_up(connection)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.failures.append(error)


@contextlib.contextmanager
def _sending(content: Content, connection: socket.socket) -> Iterator[Callable[[int, int], None]]:
    """A function that sends a span of some content; a file's bytes go to the socket without passing through this process."""

    def send_file(start: int, stop: int) -> None:
        while start < stop:
            start += os.sendfile(connection.fileno(), file.fileno(), start, stop - start)

    if isinstance(content, OnDisk):
        with content.path.open("rb") as file:
            yield send_file
    else:
        yield lambda start, stop: connection.sendall(content.read(start, stop))


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client may have been faster
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, asks the hub, writes its answers."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        request = self._read()
        hub = self.server.hub
        hub.requests.append(request)
        answer = hub.respond(request)
        if answer.ending == "hang_up":
            self.close_connection = True
            return
        request.status = answer.status
        self._write_head(answer, request)
        if request.method != "HEAD":
            self._write_body(answer, request)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read(self) -> Request:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(
            method=self.command,
            host=self.server.host,
            path=path,
            headers=headers,
            range=parse_range(headers.get("range")),
            query=query,
            body=body,
            peer=self.client_address[1],
        )

    def _write_head(self, answer: Answer, request: Request) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Length", str(answer.length))
        self.send_header("X-Request-Id", request.headers.get("x-amzn-trace-id", ""))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write_body(self, answer: Answer, request: Request) -> None:
        stop = answer.stop if answer.cut is None else min(answer.start + answer.cut, answer.stop)
        self._write_span(answer.content, answer.start, stop, request)
        if answer.ending == "stall":
            self.server.hub.stopping.wait(answer.pause)
            self._write_span(answer.content, stop, answer.stop, request)
        elif answer.ending == "reset":
            time.sleep(_TICK)  # what was sent should arrive before the reset does
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = self.close_connection or answer.ending in ("close", "reset")

    def _write_span(self, content: Content, start: int, stop: int, request: Request) -> None:
        began, sent, hub = time.monotonic(), 0, self.server.hub
        rate = hub.rate
        step = hub.link.piece_bytes(_CHUNK if rate is None else max(1, min(_CHUNK, int(rate * _TICK))))
        with _sending(content, self.connection) as send:
            for at in range(start, stop, step):
                count = min(step, stop - at)
                hub.link.wait(count, hub.stopping)
                request.bytes_sent += count
                send(at, at + count)
                sent += count
                if rate is not None and hub.stopping.wait(max(0.0, began + sent / rate - time.monotonic())):
                    return

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: `LocalHub.requests` is the log."""
