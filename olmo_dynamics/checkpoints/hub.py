"""Checkpoints on the Hugging Face hub: every branch and tag of a repo is a revision, streamed span by span.

Branches move, so a revision is pinned to a commit before a byte of it is read, and every request names that commit. One
listing gives names, sizes and hashes of all its files. Files that the Hugging Face cache already has are mapped from there.

    >>> source = HubSource("allenai/OLMo-2-0425-1B")                                            # doctest: +SKIP
    >>> with source.open(source.find("stage1-step10000-tokens21B")) as checkpoint:              # doctest: +SKIP
    ...     checkpoint.weights_sha256()                                                         # moves no weights
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import constants, try_to_load_from_cache

from olmo_dynamics.checkpoints.catalog.known_runs import known_run
from olmo_dynamics.checkpoints.catalog.positions import in_training_order
from olmo_dynamics.checkpoints.catalog.refs_cache import CachedRefs, load_refs, save_refs
from olmo_dynamics.checkpoints.catalog.revision_names import PULL_REQUEST, named_revision
from olmo_dynamics.checkpoints.http.hub_api import Repo, ask, ask_pages
from olmo_dynamics.checkpoints.http.range_reader import CommitFiles, RangeReader, Shared
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub_cache import CacheSource
from olmo_dynamics.checkpoints.mapped import MappedFile
from olmo_dynamics.checkpoints.source import Checkpoint, Source
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import NetworkError, UnknownRevisionError, UnknownSourceError
from olmo_dynamics.names import Revision

REFS_SECONDS = 3600.0
"""Seconds for which a cached list of revisions is used before it is fetched again."""

LISTING_TRIES = 3
"""Tries for the list of revisions: a user without a network should learn of it within seconds."""

_LOG = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")


class RemoteFile(NamedTuple):
    """A file as the hub lists it; `sha256` is known for large files only, `oid` is git's hash."""

    name: str
    size: int
    sha256: str
    oid: str


class HubSource(Source):
    """A model repo's branches and tags; listing them costs one request per hour, opening one at most two.

    `cache` is the folder for lists of revisions. `endpoint` and `token` are those that huggingface_hub finds unless given.
    """

    kind = "hub"

    def __init__(
        self,
        repo_id: str,
        *,
        endpoint: str | None = None,
        cache: Path | None = None,
        token: str | bool | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.name = repo_id
        self._repo = Repo(repo_id, (endpoint or constants.ENDPOINT).rstrip("/"), token)
        self._cache = cache
        self._retry = retry or RetryPolicy()
        self._shared = Shared()
        self._refs: CachedRefs | None = None
        self._is_fresh = False  # True if the refs were fetched by this object, not found on disk
        self._local = CacheSource.of_repo(repo_id)
        self._unreachable = ""  # the reason, once the list is taken from the Hugging Face cache

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """All branches and tags, in training order, at the commits they had when last listed.

        Without a network, those in the Hugging Face cache, or else an old list: `notes` and `catalogue_age` say so.

        Raises:
            UnknownSourceError: the repo does not exist, or is private.
            NetworkError: the hub does not answer, and neither its files nor a list are cached.
        """
        if self._unreachable and not refresh:
            return self._local.revisions()
        self._unreachable = ""
        try:
            refs = self._list_refs(refresh).commits.items()
        except NetworkError as problem:
            if not self._has_local_revision():
                raise NetworkError(f"there is no folder {self.name}, and {problem}") from None
            self._unreachable = _reason(problem)
            return self._local.revisions()
        found = [replace(named_revision(name), commit=commit) for name, commit in refs]
        return in_training_order(found, known_run(self.name))

    @property
    def notes(self) -> tuple[str, ...]:
        """A remark that revisions, or some of them, are read from the Hugging Face cache, since the hub does not answer."""
        if not self._unreachable:
            return ()
        return (f"{self._unreachable}; {self.name} is read from the Hugging Face cache", *self._local.notes)

    def find(self, name: str) -> Revision:
        """The revision of that exact name, of that commit hash (all 40 digits), or of a pull request (`refs/pr/N`).

        Raises:
            UnknownRevisionError: there is no such revision; the message shows near names.
        """
        if _COMMIT.fullmatch(name):
            return Revision(name, commit=name)
        if PULL_REQUEST.fullmatch(name):
            return Revision(name)  # the hub lists none of them
        try:
            return super().find(name)
        except UnknownRevisionError:
            if self._is_fresh:
                raise
        self.revisions(refresh=True)  # the branch may be younger than the list
        return super().find(name)

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Limit the bytes received per second over the connections of all its checkpoints together."""
        self._shared.rate_limit.set(bytes_per_second)

    @property
    def hub_token(self) -> str:
        """The token given, or the one that huggingface_hub finds."""
        return self._repo.shown_token

    def catalogue_age(self) -> float | None:
        """Seconds since the list of revisions was fetched, None before there is one."""
        refs = self._refs or load_refs(self.name, self._repo.endpoint, self._cache)
        return refs.age() if refs else None

    def open(self, revision: Revision) -> Checkpoint:
        """Pin the revision to its commit, and list its files.

        Where the hub does not answer, the Hugging Face cache gives the revision if it holds all of it.

        Raises:
            UnknownRevisionError: there is no such branch, tag or commit.
            NetworkError: the hub does not answer.
        """
        in_cache = self._local.holds(revision)
        if self._unreachable and in_cache:
            return self._local.open(revision)
        retry = replace(self._retry, connect_once=in_cache)
        try:
            pinned = self._pin(revision, retry)
            address = self._repo.api_address("tree", pinned.commit) + "?recursive=true&expand=false"
            listed = ask_pages(self._repo, address, _parse_file, retry)
        except UnknownRevisionError:
            self.revisions(refresh=True)
            raise self.unknown_revision(revision.name) from None
        except NetworkError as problem:
            if not in_cache:
                raise
            self._unreachable = _reason(problem)
            _LOG.warning("%s", self.notes[0])
            return self._local.open(revision)
        files = {file.name: file for file in listed if file}
        sizes = {name: file.size for name, file in files.items()}
        hashes = {name: file.sha256 or file.oid for name, file in files.items()}
        commit_files = CommitFiles(pinned.commit, sizes, hashes)
        reader = RangeReader(self._repo, commit_files, retry=self._retry, shared=self._shared)
        return HubCheckpoint(self.name, pinned, files, reader)

    def _list_refs(self, refresh: bool) -> CachedRefs:
        cached = self._refs or load_refs(self.name, self._repo.endpoint, self._cache)
        self._refs = cached
        if cached and not refresh and cached.age() < REFS_SECONDS:
            return cached
        try:
            commits = ask(self._repo, self._repo.api_address("refs"), _parse_refs, self._listing_retry)
        except NetworkError:
            if cached is None or self._has_local_revision():
                raise
            return cached
        self._refs = CachedRefs(self.name, self._repo.endpoint, time.time(), commits)
        self._is_fresh = True
        save_refs(self._refs, self._cache)
        return self._refs

    def _has_local_revision(self) -> bool:
        try:
            return bool(self._local.exists and self._local.revisions())
        except UnknownSourceError:
            return False

    @property
    def _listing_retry(self) -> RetryPolicy:
        return replace(self._retry, tries=min(LISTING_TRIES, self._retry.tries), connect_once=True)

    def _pin(self, revision: Revision, retry: RetryPolicy) -> Revision:
        listed = self._refs.commits.get(revision.name) if self._refs and not self._is_fresh else None
        if revision.commit and revision.commit != listed:
            return revision  # chosen by the caller, or listed just now
        address = self._repo.api_address("revision", revision.name)
        return replace(revision, commit=ask(self._repo, address, lambda answer: str(answer["sha"]), retry))


class HubCheckpoint(Checkpoint):
    """Files of one commit; weights are read over HTTP, or from the Hugging Face cache if it has them."""

    def __init__(self, source: str, revision: Revision, files: Mapping[str, RemoteFile], reader: RangeReader) -> None:
        super().__init__(source, revision, {name: file.size for name, file in files.items()})
        self._listed = files
        self._reader = reader
        self._maps: dict[str, MappedFile | None] = {}

    @property
    def bytes_moved(self) -> int:
        """Bytes received over the network so far."""
        return self._reader.bytes_moved

    @property
    def requests_made(self) -> int:
        """Requests for parts of files sent so far, including failed tries."""
        return self._reader.requests_made

    def close(self) -> None:
        """End the connections' threads, and drop the mapped files."""
        self._reader.close()
        self._maps.clear()

    @property
    def expected_sha256(self) -> Mapping[str, str]:
        """The hub's own hashes of the safetensors weights; only their index is read."""
        if self.stored_as:
            return {}
        with self._naming_revision():
            return {name: self._listed[name].sha256 for name in self.weight_files if self._listed[name].sha256}

    def known_sha256(self) -> str:
        """`weights_sha256` if the hub lists the hash of every weight file, else empty."""
        with self._naming_revision():
            listed = all(self._listed[name].sha256 for name in self.weight_files)
        return self.weights_sha256() if listed else ""

    def file_sha256(self, name: str) -> str:
        """The hub's own hash of a large file, which moves no bytes; a file without a listed hash is read."""
        return self._listed[name].sha256 or super().file_sha256(name)

    def file_id(self, name: str) -> str:
        """The hub's own hash: sha256 of a large file, git's of a small one."""
        return self._listed[name].sha256 or self._listed[name].oid

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        away = iter(self._reader.read([span for span in spans if self._find_cached(span.file) is None]))
        homes = [(span, self._find_cached(span.file)) for span in spans]
        return [next(away) if home is None else home.bytes[span.start : span.stop] for span, home in homes]

    def release_spans(self, spans: Sequence[Span]) -> None:
        """Return the pages of mapped files; using them again reads the file again."""
        for span in spans:
            if mapped := self._maps.get(span.file):
                mapped.release(span.start, span.stop)

    def _find_cached(self, name: str) -> MappedFile | None:
        if name not in self._maps:
            path = try_to_load_from_cache(self.source, name, revision=self.revision.commit)
            mapped = MappedFile(path) if isinstance(path, str) else None
            self._maps[name] = mapped if mapped is not None and len(mapped.bytes) == self.files[name] else None
        return self._maps[name]


def _reason(problem: NetworkError) -> str:
    """The first part of a message, without the advice, which does not hold where the cache helps."""
    return str(problem).partition("; ")[0]


def _parse_refs(answer: Any) -> dict[str, str]:
    refs = [*answer["tags"], *answer["branches"]]  # of a tag and a branch of one name, the hub resolves the branch
    return {str(ref["name"]): str(ref["targetCommit"]) for ref in refs}


def _parse_file(item: Any) -> RemoteFile | None:
    if item["type"] != "file":
        return None
    sha256 = str((item.get("lfs") or {}).get("oid", ""))
    return RemoteFile(str(item["path"]), int(item["size"]), sha256, str(item.get("oid", "")))
