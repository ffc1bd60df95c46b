"""Ranged reads over HTTP: byte spans of a repo's files, in parallel, straight into the caller's buffers.

Spans are cut into ranged requests of at most 32 MiB over four connections. Where a body breaks off, the next try asks only
for the rest. Nothing is written to disk. A large file's address on the hub redirects to a signed one on its storage; that
one is kept for the file's later spans (redirects count against a quota) until it expires. The Xet protocol is not used: the
storage serves files in Xet by plain ranges too.

    >>> reader = RangeReader(repo, CommitFiles(commit, {"model.safetensors": 2_969_833_472}))   # doctest: +SKIP
    >>> [length] = reader.read([Span("model.safetensors", 0, 8)])                               # doctest: +SKIP
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

import httpx2
import numpy as np
from huggingface_hub.utils import get_session

from olmo_dynamics.buffer_pool import BufferPool
from olmo_dynamics.checkpoints.http.connections import Connections, PendingReads, is_reached_directly
from olmo_dynamics.checkpoints.http.hub_api import Repo, require_success, translate_errors
from olmo_dynamics.checkpoints.http.prefix_cache import PrefixCache
from olmo_dynamics.checkpoints.http.ranges import CONNECTIONS, Request, plan_requests, request_bytes
from olmo_dynamics.checkpoints.http.rate_limit import RateLimit
from olmo_dynamics.checkpoints.http.retry import RetryPolicy, TransientError, UnreachableError
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import CheckpointError, NetworkError, UnknownRevisionError

PROGRESS_BYTES = 1 << 20  # 1 MiB; a failed try that received so much made progress
SKIP_LIMIT = 256 << 20  # 256 MiB; a host that ignores ranges sends everything before a span anew for each request

_EXPIRED = (400, 401, 403, 404, 410)  # storage hosts' answers to a signed address that has expired
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class CommitFiles:
    """A commit's files as the repo lists them: sizes in bytes, and (sha256 or git's) hashes where there are any."""

    commit: str
    sizes: Mapping[str, int]
    hashes: Mapping[str, str] = field(default_factory=dict)


def _buffers() -> BufferPool:
    """Memory for bytes, of which up to 256 MiB wait for the next use."""
    return BufferPool(least_bytes=4 << 20, idle_bytes=256 << 20)


@dataclass(frozen=True, slots=True)
class Shared:
    """A limit on bytes per second, connections, and memory for bytes, shared by the checkpoints of a source."""

    rate_limit: RateLimit = field(default_factory=RateLimit)
    connections: Connections = field(default_factory=Connections)
    buffers: BufferPool = field(default_factory=_buffers)

    def __reduce__(self) -> tuple[type[Shared], tuple[()]]:
        """Pickled without any of them: each process has its own."""
        return Shared, ()


class RangeReader:
    """Ranged reads of one commit of a repo."""

    def __init__(
        self, repo: Repo, files: CommitFiles, *, retry: RetryPolicy | None = None, shared: Shared | None = None
    ) -> None:
        self.bytes_moved = self.requests_made = 0
        self._repo, self._files = repo, files
        self._retry = retry or RetryPolicy()
        self._shared = shared or Shared()
        self._prefixes = PrefixCache(files.sizes)
        self._addresses: dict[str, str] = {}  # signed addresses of files, until they expire
        self._indirect: set[str] = set()  # files whose hosts only huggingface_hub's client reaches
        self._counting = threading.Lock()
        self._pending = PendingReads()
        self._stops: set[threading.Event] = set()  # of the fetches in progress
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="olmo-dynamics-http")

    def close(self) -> None:
        """End the threads, at once even if a host is silent; nothing can be fetched afterwards."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for stop in self._stops.copy():
            stop.set()
        self._pending.cancel()

    def read(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """The bytes of spans (uint8, read-only), in the order given; the first bytes of a file are requested once.

        Raises:
            SourceError: as `fetch`.
            CheckpointError: as `fetch`.
        """
        found, targets = [], []
        buffers = self._shared.buffers.take([span.stop - span.start for span in spans])
        for span, buffer in zip(spans, buffers, strict=True):
            kept = self._prefixes.find(span)
            raw = kept if len(kept) == len(buffer) else buffer
            if raw is not kept:
                raw[: len(kept)] = kept
                targets.append((span._replace(start=span.start + len(kept)), raw[len(kept) :]))
            found.append(raw)
        self.fetch(targets)
        for span, raw in zip(spans, found, strict=True):
            raw.flags.writeable = False
            self._prefixes.keep(span, raw)
        return found

    def fetch(self, targets: Sequence[tuple[Span, np.ndarray]]) -> None:
        """Fill each buffer (uint8, one axis, contiguous) with its span.

        Raises:
            NetworkError: a request failed as often as the retry policy allows.
            CheckpointError: the hub's file is not the listed one.
            AccessError: the repo is gated, or became private.
        """
        total = sum(span.stop - span.start for span, _ in targets)
        limit = request_bytes(total)
        stop = threading.Event()
        self._stops.add(stop)
        receipts = [self._pool.submit(self._receive, request, stop) for request in plan_requests(targets, limit)]
        try:
            for receipt in as_completed(receipts):
                receipt.result()
        except BaseException:
            stop.set()
            for receipt in receipts:
                receipt.cancel()
            raise
        finally:
            self._stops.discard(stop)

    def _receive(self, request: Request, stop: threading.Event) -> None:
        doing = (
            f"reading bytes {request.at} to {request.stop} of {self._repo.name}/{request.file} from {self._repo.host}"
        )
        self._retry.call(lambda: self._exchange(request, stop), doing, stop)

    def _exchange(self, request: Request, stop: threading.Event) -> None:
        address, began_at = self._addresses.get(request.file), request.at
        try:
            if address is None or not self._read_direct(address, request, stop):
                self._read_via_hub(request, stop)
        except TransientError as problem:
            if isinstance(problem, UnreachableError):
                self._indirect.add(request.file)
            self._addresses.pop(request.file, None)  # the hub may send the next try to a host that works
            problem.made_progress = request.at - began_at >= PROGRESS_BYTES
            raise

    def _read_direct(self, address: str, request: Request, stop: threading.Event) -> bool:
        """Receive straight into the buffers; False if the address has expired, or cannot be read directly."""
        headers = self._headers(request)
        headers.pop("authorization", None)  # the token is for the hub alone
        timeout = self._retry.timeout
        self._count_request()
        with self._shared.connections.get(address, headers, timeout=timeout, pending=self._pending) as response:
            status = response.head.status_code
            if status in _EXPIRED or (status < 400 and not response.is_plain):
                return False
            self._check_response(response.head, request)
            while request.parts and (count := response.read_into(request.parts[0])):
                request.advance(count)
                self._count(count, stop)
        self._require_all(request)
        return True

    def _read_via_hub(self, request: Request, stop: threading.Event) -> None:
        """Receive through huggingface_hub's client, from wherever the hub redirects to."""
        headers = self._headers(request)
        address = self._repo.file_address(request.file, self._files.commit)
        timeout = self._retry.timeout
        self._count_request()
        with (
            translate_errors(self._repo),
            get_session().stream("GET", address, headers=headers, timeout=timeout) as response,
        ):
            if response.status_code == 401 and self._headers(request) != headers:
                raise TransientError("the login was renewed meanwhile")
            skip = self._check_response(response, request)
            final = str(response.url)
            known = "authorization" not in response.request.headers and request.file not in self._indirect
            if known and is_reached_directly(final):
                self._addresses[request.file] = final
            with self._pending.add(_socket(response)):
                self._copy_body(response, request, skip, stop)
        self._require_all(request)

    def _headers(self, request: Request) -> dict[str, str]:
        """Request headers with the current login, since logins are renewed."""
        span = f"bytes={request.at}-{request.stop - 1}"
        return {**self._repo.headers(), "accept-encoding": "identity", "range": span}

    def _is_elsewhere(self, response: httpx2.Response) -> bool:
        return response.url.netloc.decode() != self._repo.host

    def _check_pin(self, response: httpx2.Response, file: str) -> None:
        """Refuse another commit or another file; only the hub's own answers, before it redirects elsewhere, name them."""
        pinned, expected = self._files.commit, self._files.hashes.get(file)
        for answer in (*response.history, response):
            commit = answer.headers.get("X-Repo-Commit", pinned)
            if commit != pinned:
                raise self._moved(f"expected commit {pinned}, got {commit}")
            etag = answer.headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
            if expected and etag and etag != expected:
                raise self._moved(f"{file} was listed with hash {expected} and now has {etag}")

    def _moved(self, how: str) -> CheckpointError:
        return CheckpointError(f"{self._repo.name}: the branch moved: {how}; open the revision again")

    def _check_response(self, response: httpx2.Response, request: Request) -> int:
        """Check a response; the number of bytes of its body to skip, which come before the requested ones."""
        where, size = f"{self._repo.name}/{request.file}", self._files.sizes[request.file]
        if response.status_code == 416:
            raise CheckpointError(
                f"{where}: bytes {request.at} to {request.stop} lie outside the file, which was listed with {size} bytes; "
                "open the revision again"
            )
        if response.status_code in _EXPIRED and self._is_elsewhere(response):
            raise TransientError(f"{response.url.netloc.decode()} refuses the address that the hub signed")
        try:
            require_success(response, self._repo)
        except UnknownRevisionError:
            raise self._moved(f"{self._repo.host} no longer has commit {self._files.commit}") from None
        self._check_pin(response, request.file)
        start, total = _answered_range(response)
        if total is not None and total != size:
            raise CheckpointError(
                f"{where} was listed with {size} bytes, but the host offers {total}; open the revision again"
            )
        if start == 0 and request.at > SKIP_LIMIT:
            raise NetworkError(
                f"{response.url.netloc.decode()} ignores ranges, so {where} cannot be streamed; "
                f"run `hf download {self._repo.name} --revision {self._files.commit} --local-dir DIR` and give that folder"
            )
        if start not in (0, request.at):
            raise CheckpointError(f"{where}: expected bytes from {request.at}, got bytes from {start}; run it again")
        return request.at - start

    def _copy_body(self, response: httpx2.Response, request: Request, skip: int, stop: threading.Event) -> None:
        for chunk in response.iter_bytes():
            request.write(memoryview(chunk)[skip:])
            skip = max(0, skip - len(chunk))
            self._count(len(chunk), stop)
            if not request.parts and response.num_bytes_downloaded < _length(response):
                return  # leaving a body unread costs the connection, so only where much of it would follow

    def _count_request(self) -> None:
        """Count a request; failed tries count too, the hub's redirects, which are followed, do not."""
        with self._counting:
            self.requests_made += 1

    def _count(self, count: int, stop: threading.Event) -> None:
        with self._counting:
            self.bytes_moved += count
        self._shared.rate_limit.wait_for(count, stop)
        if stop.is_set():
            raise TransientError("another request failed")

    def _require_all(self, request: Request) -> None:
        if request.parts:
            raise TransientError(f"the response ended {request.stop - request.at} bytes early")


def _answered_range(response: httpx2.Response) -> tuple[int, int | None]:
    """The body's first position in the file, and the file's size, None if the response does not tell."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code == 206 and found:
        return int(found[1]), None if found[2] == "*" else int(found[2])
    if response.status_code == 206:
        raise TransientError(f"{response.url.netloc.decode()} sent a part of the file without saying which part")
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return 0, int(length) if length.isdecimal() and not encoded else None


def _socket(response: httpx2.Response) -> socket.socket | None:
    stream = response.extensions.get("network_stream")  # transports of other makes have none
    return stream.get_extra_info("socket") if stream else None


def _length(response: httpx2.Response) -> float:
    return float(response.headers.get("Content-Length", "inf"))
