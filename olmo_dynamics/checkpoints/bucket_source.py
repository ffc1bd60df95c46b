"""Checkpoints in a bucket: folders of revisions under a prefix, or one checkpoint, as in a folder of this machine.

>>> source = open_source("s3://bucket/runs/a")  # doctest: +SKIP
>>> [revision.step for revision in source.revisions()]  # doctest: +SKIP
[0, 100, 200]

The prefix is listed once, and bytes are read by ranged requests, several at once; nothing is written to disk.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from olmo_dynamics.checkpoints.file_hashes import read_sums
from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.checkpoints.http.prefix_cache import PrefixCache
from olmo_dynamics.checkpoints.http.ranges import CONNECTIONS
from olmo_dynamics.checkpoints.http.rate_limit import RateLimit
from olmo_dynamics.checkpoints.source import Checkpoint
from olmo_dynamics.checkpoints.tensors import Span, weight_files
from olmo_dynamics.errors import CheckpointError, StoreError, UnknownSourceError
from olmo_dynamics.files import ObjectPath, Place, as_place, files_under
from olmo_dynamics.names import Revision

_PIECE_BYTES = 8 << 20  # 8 MiB of one request


class BucketSource(FolderSource):
    """The checkpoints under a prefix of a bucket, by an address such as `s3://bucket/runs/a`."""

    kind = "bucket"

    def __init__(self, address: str) -> None:
        self.name = address.rstrip("/")
        self._rate_limit = RateLimit()
        place = as_place(self.name)
        assert isinstance(place, ObjectPath)
        self._folder: Place = place
        self._tree = place.tree

    def __reduce__(self) -> tuple[type[BucketSource], tuple[str]]:
        """Pickled as its address: each process finds credentials of its own."""
        return BucketSource, (self.name,)

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """The revisions under the prefix, in training order; other folders are skipped.

        Raises:
            UnknownSourceError: there is no such bucket, or nothing under the prefix is a checkpoint.
        """
        if refresh:
            self._tree.refresh()
        try:
            return super().revisions()
        except StoreError as error:
            raise UnknownSourceError(str(error)) from None

    def _opened(self, revision: Revision, homes: dict[str, Place]) -> Checkpoint:
        home, others = self._home(revision, homes)
        assert isinstance(home, ObjectPath)
        return BucketCheckpoint(self.name, revision, home, others, self._rate_limit)

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Limit the bytes received per second over all connections together."""
        self._rate_limit.set(bytes_per_second)


class BucketCheckpoint(Checkpoint):
    """Objects under one prefix, less those of the folders `others`, read by span."""

    def __init__(
        self, source: str, revision: Revision, place: ObjectPath, others: frozenset[str], rate_limit: RateLimit
    ) -> None:
        found = files_under(place).items()
        super().__init__(source, revision, {name: size for name, size in found if name.partition("/")[0] not in others})
        self._place, self._rate_limit = place, rate_limit
        self._prefixes = PrefixCache(self.files)
        self._requests = 0
        self._counting, self._closed = threading.Lock(), threading.Event()
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="olmo-dynamics-bucket")

    @property
    def requests_made(self) -> int:
        """Requests for parts of files sent so far."""
        return self._requests

    def close(self) -> None:
        """End the threads."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def expected_sha256(self) -> Mapping[str, str]:
        """The hashes that training wrote beside its own weights; none for checkpoints of another origin."""
        sums = {} if self.stored_as else read_sums(self)
        return {name: sums[name] for name in weight_files(self.read_spans, self.files) if name in sums} if sums else {}

    def known_sha256(self) -> str:
        """`weights_sha256` by the hashes that training wrote; empty without them, as a bucket lists no SHA-256."""
        expected = self.expected_sha256
        return self.weights_sha256() if expected and set(self.weight_files) <= set(expected) else ""

    def file_sha256(self, name: str) -> str:
        """Hash of one file: as training wrote it, else of its bytes, which are read whole."""
        return self.expected_sha256.get(name) or super().file_sha256(name)

    def release_spans(self, spans: Sequence[Span]) -> None:
        """Nothing is mapped."""

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        found = [np.empty(span.stop - span.start, np.uint8) for span in spans]
        pieces = []
        for span, raw in zip(spans, found, strict=True):
            kept = self._prefixes.find(span)
            raw[: len(kept)] = kept
            for start in range(span.start + len(kept), span.stop, _PIECE_BYTES):
                stop = min(start + _PIECE_BYTES, span.stop)
                pieces.append((Span(span.file, start, stop), raw[start - span.start : stop - span.start]))
        list(self._pool.map(self._receive, pieces))
        for span, raw in zip(spans, found, strict=True):
            raw.flags.writeable = False
            self._prefixes.keep(span, raw)
        return found

    def _receive(self, piece: tuple[Span, np.ndarray]) -> None:
        span, raw = piece
        objects, key = self._place.tree.objects, (self._place / span.file).key
        try:
            data = objects.read(key, span.start, span.stop)
        except FileNotFoundError:
            data = b""
        if len(data) != len(raw):
            raise CheckpointError(
                f"{self.label}: {span.file} had {self.files[span.file]} bytes when it was listed and is another file now; "
                "open it again"
            )
        raw[:] = np.frombuffer(data, np.uint8)
        with self._counting:
            self._moved += len(data)
            self._requests += 1
        self._rate_limit.wait_for(len(data), self._closed)
