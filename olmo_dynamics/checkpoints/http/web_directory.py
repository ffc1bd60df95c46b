"""A directory on a plain web server, which cannot be listed: files are requested by name and read span by span.

A size is found out when the name is first requested. The Hugging Face token is never sent there.

    >>> directory = WebDirectory("https://olmo-checkpoints.org/ai2-llm/run/step1000-unsharded")  # doctest: +SKIP
    >>> "model.pt" in directory.files                                                           # doctest: +SKIP
    True
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import httpx2
import numpy as np
from huggingface_hub.utils import get_session

from olmo_dynamics.checkpoints.http.hub_api import Repo, require_success, translate_errors
from olmo_dynamics.checkpoints.http.range_reader import CommitFiles, RangeReader, Shared
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import NetworkError

_ABSENT = (403, 404, 410)  # object stores that may not be listed answer 403 for missing files
_NO_HEAD = (400, 405, 501)
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


class WebDirectory:
    """Files under a base address; `files` maps names to sizes, and `read_spans` reads parts of them."""

    def __init__(self, address: str, *, retry: RetryPolicy | None = None, shared: Shared | None = None) -> None:
        self._place = _Place(address.rstrip("/"), address.rstrip("/"), False)
        self.files: Mapping[str, int] = WebSizes(self._place, retry or RetryPolicy())
        self._reader = RangeReader(self._place, CommitFiles("", self.files), retry=retry, shared=shared)

    @property
    def bytes_moved(self) -> int:
        """Bytes received so far."""
        return self._reader.bytes_moved

    @property
    def requests_made(self) -> int:
        """Requests for parts of files sent so far; those for their sizes are not counted."""
        return self._reader.requests_made

    def close(self) -> None:
        """End the connections' threads."""
        self._reader.close()

    def read_spans(self, spans: Sequence[Span]) -> list[np.ndarray]:
        """The bytes of spans of files (uint8, read-only), in the order given.

        Raises:
            NetworkError: the server does not answer.
            CheckpointError: a file's size is not the one found before.
        """
        return self._reader.read(spans)


class WebSizes(Mapping[str, int]):
    """File sizes by name, found out one by one; iterating gives the names found so far."""

    def __init__(self, place: Repo, retry: RetryPolicy) -> None:
        self._place, self._retry = place, retry
        self._known: dict[str, int | None] = {}

    def __getitem__(self, name: str) -> int:
        if name not in self._known:
            doing = f"asking {self._place.host} for {self._place.name}/{name}"
            self._known[name] = self._retry.call(lambda: self._ask(name), doing)
        size = self._known[name]
        if size is None:
            raise KeyError(name)
        return size

    def __iter__(self) -> Iterator[str]:
        return (name for name, size in self._known.items() if size is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _ask(self, name: str) -> int | None:
        response = self._exchange("HEAD", name)
        if response.status_code in _NO_HEAD or (response.is_success and "Content-Length" not in response.headers):
            response = self._exchange("GET", name)
        if response.status_code in _ABSENT:
            return None
        require_success(response, self._place)
        total = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
        length = total[1] if total else response.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise NetworkError(f"{self._place.host} does not say how long {name} is, so it cannot be read in parts")
        return int(length)

    def _exchange(self, method: str, name: str) -> httpx2.Response:
        headers = {**self._place.headers(), "accept-encoding": "identity"}
        if method == "GET":
            headers["range"] = "bytes=0-0"
        address = self._place.file_address(name, "")
        with (
            translate_errors(self._place),
            get_session().stream(
                method, address, headers=headers, timeout=self._retry.timeout, follow_redirects=True
            ) as response,
        ):
            return response


@dataclass(frozen=True, slots=True)
class _Place(Repo):
    """A base address, in the form in which `RangeReader` uses a repo."""

    def headers(self) -> dict[str, str]:
        """Request headers, without a token: it is for the hub alone."""
        return {"user-agent": "olmo_dynamics"}

    def file_address(self, file: str, commit: str) -> str:
        """The address of a file."""
        return f"{self.endpoint}/{quote(file)}"
