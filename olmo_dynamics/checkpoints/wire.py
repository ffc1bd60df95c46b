"""Byte spans of a repo's files over HTTP, in parallel, straight into the caller's buffers.

Spans are cut into ranged requests of at most 32 MiB over four connections. Where a body breaks off, the next try asks only
for the rest. Nothing is written to disk. A large file's address on the hub redirects to a signed one on its storage; that
one is kept for the file's later spans (redirects count against a quota) until it expires. Xet is never spoken: the storage
serves what is in Xet by plain ranges too.

    >>> wire = Wire(repo, Listing(commit, {"model.safetensors": 2_969_833_472}))                # doctest: +SKIP
    >>> [length] = wire.read([Span("model.safetensors", 0, 8)])                                 # doctest: +SKIP
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

from olmo_dynamics.checkpoints.direct import Connections, UnreachableError, Waits, is_reached_directly
from olmo_dynamics.checkpoints.hub_api import Repo, require_success, steady
from olmo_dynamics.checkpoints.patience import Patience, UnsteadyError
from olmo_dynamics.checkpoints.prefixes import Prefixes
from olmo_dynamics.checkpoints.ranges import Request, plan_requests
from olmo_dynamics.checkpoints.source import REQUEST_BYTES
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.checkpoints.throttle import Throttle
from olmo_dynamics.errors import CheckpointError, NetworkError, UnknownRevisionError

CONNECTIONS = 4
SMALL_REQUEST_BYTES = 4 << 20  # 4 MiB; below it a request's latency costs more than a shared connection saves
HEADWAY_BYTES = 1 << 20  # 1 MiB; a try that brought so much was not in vain
SKIP_LIMIT = 256 << 20  # 256 MiB; a host that ignores ranges sends everything before a span anew for each request

_EXPIRED = (400, 401, 403, 404, 410)  # how storages answer to a signed address past its time
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def request_bytes(total: int) -> int:
    """What each request for some bytes asks for at most: a share of them that suits every connection."""
    return min(REQUEST_BYTES, max(SMALL_REQUEST_BYTES, -(-total // CONNECTIONS)))


@dataclass(frozen=True, slots=True)
class Listing:
    """A commit's files as the repo lists them: sizes in bytes, and (sha256 or git's) hashes where there are any."""

    commit: str
    sizes: Mapping[str, int]
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """What the checkpoints of a source share: a limit on bytes per second, and connections."""

    throttle: Throttle = field(default_factory=Throttle)
    connections: Connections = field(default_factory=Connections)


class Wire:
    """Ranged reads of one commit of a repo."""

    def __init__(
        self, repo: Repo, listing: Listing, *, patience: Patience | None = None, line: Line | None = None
    ) -> None:
        self.bytes_moved = self.requests_made = 0
        self._repo, self._listing = repo, listing
        self._patience = patience or Patience()
        self._line = line or Line()
        self._prefixes = Prefixes(listing.sizes)
        self._addresses: dict[str, str] = {}  # where a file's bytes are given to anyone, for now
        self._indirect: set[str] = set()  # files whose hosts only huggingface_hub's client reaches
        self._counting = threading.Lock()
        self._waits = Waits()
        self._stops: set[threading.Event] = set()  # of the fetches under way
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="olmo-dynamics-wire")

    def close(self) -> None:
        """End the threads, at once even where a host is silent; nothing can be fetched after."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for stop in self._stops.copy():
            stop.set()
        self._waits.end()

    def read(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """The bytes of spans (uint8, read-only), in the order asked; the first bytes of a file are asked for once.

        Raises:
            SourceError, CheckpointError: as `fetch`.
        """
        found, wanted = [], []
        for span in spans:
            kept = self._prefixes.find(span)
            raw = kept if len(kept) == span.stop - span.start else np.empty(span.stop - span.start, np.uint8)
            if raw is not kept:
                raw[: len(kept)] = kept
                wanted.append((span._replace(start=span.start + len(kept)), raw[len(kept) :]))
            found.append(raw)
        self.fetch(wanted)
        for span, raw in zip(spans, found, strict=True):
            raw.flags.writeable = False
            self._prefixes.keep(span, raw)
        return found

    def fetch(self, wanted: Sequence[tuple[Span, np.ndarray]]) -> None:
        """Fill each buffer (uint8, one axis, contiguous) with its span.

        Raises:
            NetworkError: a request failed as often as patience allows.
            CheckpointError: the hub's file is not the one that was listed.
            AccessError: the repo is gated, or became private.
        """
        total = sum(span.stop - span.start for span, _ in wanted)
        limit = request_bytes(total)
        stop = threading.Event()
        self._stops.add(stop)
        receipts = [self._pool.submit(self._receive, request, stop) for request in plan_requests(wanted, limit)]
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
        self._patience.persist(lambda: self._exchange(request, stop), doing, stop)

    def _exchange(self, request: Request, stop: threading.Event) -> None:
        address, began_at = self._addresses.get(request.file), request.at
        try:
            if address is None or not self._draw(address, request, stop):
                self._follow(request, stop)
        except UnsteadyError as problem:
            if isinstance(problem, UnreachableError):
                self._indirect.add(request.file)
            self._addresses.pop(request.file, None)  # the hub may send the next try to a host that works
            problem.made_headway = request.at - began_at >= HEADWAY_BYTES
            raise

    def _draw(self, address: str, request: Request, stop: threading.Event) -> bool:
        """Receive straight into the buffers; False where the address has expired, or this way does not serve."""
        headers = self._headers(request)
        headers.pop("authorization", None)  # the token is for the hub alone
        timeout = self._patience.timeout
        self._count_request()
        with self._line.connections.get(address, headers, timeout=timeout, waits=self._waits) as answer:
            if answer.head.status_code in _EXPIRED or (answer.head.status_code < 400 and not answer.is_plain):
                return False
            self._check_answer(answer.head, request)
            while request.parts and (count := answer.read_into(request.parts[0])):
                request.advance(count)
                self._count(count, stop)
        self._require_all(request)
        return True

    def _follow(self, request: Request, stop: threading.Event) -> None:
        """Receive through huggingface_hub's client, from wherever the hub redirects to."""
        headers = self._headers(request)
        address = self._repo.file_address(request.file, self._listing.commit)
        timeout = self._patience.timeout
        self._count_request()
        with steady(self._repo), get_session().stream("GET", address, headers=headers, timeout=timeout) as response:
            if response.status_code == 401 and self._headers(request) != headers:
                raise UnsteadyError("the login was renewed meanwhile")
            skip = self._check_answer(response, request)
            final = str(response.url)
            known = "authorization" not in response.request.headers and request.file not in self._indirect
            if known and is_reached_directly(final):
                self._addresses[request.file] = final
            with self._waits.on(_socket(response)):
                self._take(response, request, skip, stop)
        self._require_all(request)

    def _headers(self, request: Request) -> dict[str, str]:
        """With the login of this moment: they are renewed."""
        span = f"bytes={request.at}-{request.stop - 1}"
        return {**self._repo.headers(), "accept-encoding": "identity", "range": span}

    def _is_elsewhere(self, response: httpx2.Response) -> bool:
        return response.url.netloc.decode() != self._repo.host

    def _check_pin(self, response: httpx2.Response, file: str) -> None:
        """Refuse another commit or another file; only the hub's own answers, before it redirects elsewhere, say which it is."""
        pinned, wanted = self._listing.commit, self._listing.hashes.get(file)
        for answer in (*response.history, response):
            commit = answer.headers.get("X-Repo-Commit", pinned)
            if commit != pinned:
                raise self._moved(f"wanted commit {pinned}, got {commit}")
            etag = answer.headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
            if wanted and etag and etag != wanted:
                raise self._moved(f"{file} was listed with hash {wanted}, it has {etag} now")

    def _moved(self, how: str) -> CheckpointError:
        return CheckpointError(f"{self._repo.name}: the branch moved: {how}; open the revision again")

    def _check_answer(self, response: httpx2.Response, request: Request) -> int:
        """How many bytes of the body come before those asked for."""
        where, size = f"{self._repo.name}/{request.file}", self._listing.sizes[request.file]
        if response.status_code == 416:
            raise CheckpointError(
                f"{where}: bytes {request.at} to {request.stop} lie outside the file, which was listed with {size} bytes; "
                "open the revision again"
            )
        if response.status_code in _EXPIRED and self._is_elsewhere(response):
            raise UnsteadyError(f"{response.url.netloc.decode()} refuses the address that the hub signed")
        try:
            require_success(response, self._repo)
        except UnknownRevisionError:
            raise self._moved(f"{self._repo.host} has commit {self._listing.commit} no more") from None
        self._check_pin(response, request.file)
        start, total = _answered_range(response)
        if total is not None and total != size:
            raise CheckpointError(f"{where} was listed with {size} bytes, {total} are offered; open the revision again")
        if start == 0 and request.at > SKIP_LIMIT:
            raise NetworkError(
                f"{response.url.netloc.decode()} ignores ranges, so {where} cannot be streamed; "
                f"run `hf download {self._repo.name} --revision {self._listing.commit} --local-dir DIR` and give that folder"
            )
        if start not in (0, request.at):
            raise CheckpointError(f"{where}: wanted bytes from {request.at}, got bytes from {start}; run it again")
        return request.at - start

    def _take(self, response: httpx2.Response, request: Request, skip: int, stop: threading.Event) -> None:
        for chunk in response.iter_bytes():
            request.write(memoryview(chunk)[skip:])
            skip = max(0, skip - len(chunk))
            self._count(len(chunk), stop)
            if not request.parts and response.num_bytes_downloaded < _length(response):
                return  # leaving a body unread costs the connection, so only where much of it would follow

    def _count_request(self) -> None:
        """Tries that fail count too; the hub's redirects, which are followed, do not."""
        with self._counting:
            self.requests_made += 1

    def _count(self, count: int, stop: threading.Event) -> None:
        with self._counting:
            self.bytes_moved += count
        self._line.throttle.take(count, stop)
        if stop.is_set():
            raise UnsteadyError("another request failed")

    def _require_all(self, request: Request) -> None:
        if request.parts:
            raise UnsteadyError(f"the answer broke off {request.stop - request.at} bytes early")


def _answered_range(response: httpx2.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the file is, as far as the answer tells."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code == 206 and found:
        return int(found[1]), None if found[2] == "*" else int(found[2])
    if response.status_code == 206:
        raise UnsteadyError(f"{response.url.netloc.decode()} sent a part without saying which")
    length = response.headers.get("Content-Length", "")
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    return 0, int(length) if length.isdecimal() and not encoded else None


def _socket(response: httpx2.Response) -> socket.socket | None:
    stream = response.extensions.get("network_stream")  # transports of other makes have none
    return stream.get_extra_info("socket") if stream else None


def _length(response: httpx2.Response) -> float:
    return float(response.headers.get("Content-Length", "inf"))
