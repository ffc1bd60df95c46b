"""One native checkpoint on a plain web server, such as those at olmo-checkpoints.org.

>>> source = open_source("https://olmo-checkpoints.org/ai2-llm/peteish7/step1000-unsharded")  # doctest: +SKIP
>>> source.revisions()[0].step  # doctest: +SKIP
1000

Such servers cannot be listed: files are requested by name, and the address must be that of one checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from olmo_dynamics.checkpoints.catalog.positions import in_training_order
from olmo_dynamics.checkpoints.catalog.revision_names import named_revision
from olmo_dynamics.checkpoints.http.range_reader import Shared
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.http.web_directory import WebDirectory
from olmo_dynamics.checkpoints.source import Checkpoint, Source
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import UnknownRevisionError, UnknownSourceError
from olmo_dynamics.names import Revision

_MARKS = ("config.yaml", "config.json")


class WebSource(Source):
    """The one checkpoint at an address, named after the address's last part unless `revision` is given."""

    kind = "web"

    def __init__(self, address: str, *, revision: Revision | None = None, retry: RetryPolicy | None = None) -> None:
        self.name = address.rstrip("/")
        self._retry = retry
        self._shared = Shared()
        self._revision = revision or in_training_order([named_revision(self.name.rpartition("/")[2])])[0]

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """The one revision.

        Raises:
            UnknownSourceError: there is no checkpoint at the address.
        """
        with self._directory() as found:
            return [replace(self._revision, format=found.format)]

    def open(self, revision: Revision) -> Checkpoint:
        """The checkpoint; its files' sizes are found out when they are first needed.

        Raises:
            UnknownRevisionError: it is another revision.
            UnknownSourceError: there is no checkpoint at the address.
        """
        if revision.name != self._revision.name:
            raise UnknownRevisionError(
                f"{self.name} holds only the checkpoint {self._revision.name} (got {revision.name!r})"
            )
        return self._directory()

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Limit the bytes received per second over all connections together."""
        self._shared.rate_limit.set(bytes_per_second)

    def _directory(self) -> WebCheckpoint:
        directory = WebDirectory(self.name, retry=self._retry, shared=self._shared)
        if not any(mark in directory.files for mark in _MARKS):
            directory.close()
            raise UnknownSourceError(
                f"no checkpoint at {self.name}: neither {' nor '.join(_MARKS)} is there; give the address of one "
                "checkpoint, such as https://…/step1000-unsharded"
            )
        return WebCheckpoint(self.name, self._revision, directory)


class WebCheckpoint(Checkpoint):
    """Files under one address, read by span."""

    def __init__(self, source: str, revision: Revision, directory: WebDirectory) -> None:
        super().__init__(source, revision, {})
        self.files: Mapping[str, int] = directory.files  # sizes are requested one by one
        self._directory = directory

    @property
    def bytes_moved(self) -> int:
        """Bytes received so far."""
        return self._directory.bytes_moved

    @property
    def requests_made(self) -> int:
        """Requests for parts of files sent so far."""
        return self._directory.requests_made

    def close(self) -> None:
        """End the connections' threads."""
        self._directory.close()

    def known_sha256(self) -> str:
        """Always empty: a web server publishes no hashes."""
        return ""

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        return self._directory.read_spans(spans)

    def release_spans(self, spans: Sequence[Span]) -> None:
        """Nothing is mapped."""
