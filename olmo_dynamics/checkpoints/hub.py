"""Checkpoints on the Hugging Face hub: every branch and tag of a repo is a revision, streamed span by span.

Branches move, so a revision is pinned to a commit before a byte of it is read, and everything is asked by that commit. One
listing gives names, sizes and hashes of all its files. Files that the Hugging Face cache already has are mapped from there.

    >>> source = HubSource("allenai/OLMo-2-0425-1B")                                            # doctest: +SKIP
    >>> with source.open(source.find("stage1-step10000-tokens21B")) as checkpoint:              # doctest: +SKIP
    ...     checkpoint.weights_sha256()                                                         # moves no weights
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import constants, try_to_load_from_cache

from olmo_dynamics.checkpoints.catalogue import Catalogue, load_catalogue, save_catalogue
from olmo_dynamics.checkpoints.hub_api import Repo, ask, ask_pages
from olmo_dynamics.checkpoints.mapped import MappedFile
from olmo_dynamics.checkpoints.patience import Patience
from olmo_dynamics.checkpoints.revision_names import named_revision, sort_key
from olmo_dynamics.checkpoints.runs import known_run
from olmo_dynamics.checkpoints.source import Checkpoint, Source
from olmo_dynamics.checkpoints.tensors import Span, weight_files
from olmo_dynamics.checkpoints.wire import Line, Listing, Wire
from olmo_dynamics.errors import NetworkError, UnknownRevisionError
from olmo_dynamics.names import Revision

CATALOGUE_SECONDS = 3600.0
"""How long a list of revisions is believed before it is fetched anew."""

LISTING_TRIES = 3
"""Tries for the list of revisions: who has no network should hear of it within seconds."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


class RemoteFile(NamedTuple):
    """A file as the hub lists it; `sha256` is known of large files only, `oid` is git's hash."""

    name: str
    size: int
    sha256: str
    oid: str


class HubSource(Source):
    """A model repo's branches and tags; listing them costs one request an hour, opening one costs at most two.

    `cache` is the folder for lists of revisions. `endpoint` and `token` are as huggingface_hub finds them unless given.
    """

    kind = "hub"

    def __init__(
        self,
        repo_id: str,
        *,
        endpoint: str | None = None,
        cache: Path | None = None,
        token: str | bool | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.name = repo_id
        self._repo = Repo(repo_id, (endpoint or constants.ENDPOINT).rstrip("/"), token)
        self._cache = cache
        self._patience = patience or Patience()
        self._line = Line()
        self._catalogue: Catalogue | None = None
        self._live = False  # whether the catalogue was fetched by us, rather than found on disk

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """All branches and tags, in training order, at the commits they had when last listed.

        Without a network an old list is better than none: `catalogue_age` says how old it is.

        Raises:
            UnknownSourceError: no such repo, or a private one.
            NetworkError: no answer, and no list was kept.
        """
        run = known_run(self.name)
        found = []
        for name, commit in self._listed(refresh).commits.items():
            revision = replace(named_revision(name), commit=commit)
            found.append(replace(revision, tokens=run.tokens_at(revision)) if run else revision)
        return sorted(found, key=sort_key)

    def find(self, name: str) -> Revision:
        """The revision of that exact name, or of that commit hash (all 40 digits).

        Raises:
            UnknownRevisionError: there is none; names near it are shown.
        """
        if _COMMIT.fullmatch(name):
            return Revision(name, commit=name)
        try:
            return super().find(name)
        except UnknownRevisionError:
            if self._live:
                raise
        self.revisions(refresh=True)  # the branch may be younger than the list
        return super().find(name)

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Receive at most that much over the connections of all its checkpoints together."""
        self._line.throttle.limit(bytes_per_second)

    def catalogue_age(self) -> float | None:
        """Seconds since the list of revisions was fetched; None before there is one."""
        kept = self._catalogue or load_catalogue(self.name, self._repo.endpoint, self._cache)
        return kept.age() if kept else None

    def open(self, revision: Revision) -> Checkpoint:
        """Pin the revision to its commit, and list its files.

        Raises:
            UnknownRevisionError: no such branch, tag or commit.
            NetworkError: no answer.
        """
        try:
            pinned = self._pin(revision)
            address = self._repo.api_address("tree", pinned.commit) + "?recursive=true&expand=false"
            listed = ask_pages(self._repo, address, _parse_file, self._patience)
        except UnknownRevisionError:
            self.revisions(refresh=True)
            raise self.unknown_revision(revision.name) from None
        files = {file.name: file for file in listed if file}
        sizes = {name: file.size for name, file in files.items()}
        hashes = {name: file.sha256 or file.oid for name, file in files.items()}
        listing = Listing(pinned.commit, sizes, hashes)
        wire = Wire(self._repo, listing, patience=self._patience, line=self._line)
        return HubCheckpoint(self.name, pinned, files, wire)

    def _listed(self, refresh: bool) -> Catalogue:
        kept = self._catalogue or load_catalogue(self.name, self._repo.endpoint, self._cache)
        self._catalogue = kept
        if kept and not refresh and kept.age() < CATALOGUE_SECONDS:
            return kept
        try:
            commits = ask(self._repo, self._repo.api_address("refs"), _parse_refs, self._listing_patience)
        except NetworkError:
            if kept is None:
                raise
            return kept
        self._catalogue = Catalogue(self.name, self._repo.endpoint, time.time(), commits)
        self._live = True
        save_catalogue(self._catalogue, self._cache)
        return self._catalogue

    @property
    def _listing_patience(self) -> Patience:
        return replace(self._patience, tries=min(LISTING_TRIES, self._patience.tries))

    def _pin(self, revision: Revision) -> Revision:
        listed = self._catalogue.commits.get(revision.name) if self._catalogue and not self._live else None
        if revision.commit and revision.commit != listed:
            return revision  # chosen by the caller, or listed just now
        address = self._repo.api_address("revision", revision.name)
        return replace(revision, commit=ask(self._repo, address, lambda answer: str(answer["sha"]), self._patience))


class HubCheckpoint(Checkpoint):
    """Files of one commit; weights come over the wire, or from the Hugging Face cache where they are there."""

    def __init__(self, source: str, revision: Revision, files: Mapping[str, RemoteFile], wire: Wire) -> None:
        super().__init__(source, revision, {name: file.size for name, file in files.items()})
        self._listed = files
        self._wire = wire
        self._maps: dict[str, MappedFile | None] = {}

    @property
    def bytes_moved(self) -> int:
        """Bytes received over the network so far."""
        return self._wire.bytes_moved

    @property
    def requests_made(self) -> int:
        """Requests for parts of files sent so far, tries that failed among them."""
        return self._wire.requests_made

    def close(self) -> None:
        """End the connections' threads, and forget mapped files."""
        self._wire.close()
        self._maps.clear()

    @property
    def expected_sha256(self) -> Mapping[str, str]:
        """The hub's own hashes of the safetensors weights; their index is read, nothing else."""
        if self.stored_as:
            return {}
        with self._naming_revision():
            names = weight_files(self.read_spans, self.files)
        return {name: self._listed[name].sha256 for name in names if self._listed[name].sha256}

    def known_sha256(self) -> str:
        """`weights_sha256`, where the hub lists the hash of every weight file."""
        with self._naming_revision():
            names = self.stored_as.weight_files if self.stored_as else weight_files(self.read_spans, self.files)
        return self.weights_sha256() if all(self._listed[name].sha256 for name in names) else ""

    def file_sha256(self, name: str) -> str:
        """The hub's own hash of a large file, which moves no bytes; a file of which it lists none is read."""
        return self._listed[name].sha256 or super().file_sha256(name)

    def file_id(self, name: str) -> str:
        """The hub's own hash: sha256 of a large file, git's of a small one."""
        return self._listed[name].sha256 or self._listed[name].oid

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        away = iter(self._wire.read([span for span in spans if self._cached(span.file) is None]))
        homes = [(span, self._cached(span.file)) for span in spans]
        return [next(away) if home is None else home.bytes[span.start : span.stop] for span, home in homes]

    def _release(self, spans: Sequence[Span]) -> None:
        for span in spans:
            if mapped := self._maps.get(span.file):
                mapped.release(span.start, span.stop)

    def _cached(self, name: str) -> MappedFile | None:
        if name not in self._maps:
            path = try_to_load_from_cache(self.source, name, revision=self.revision.commit)
            mapped = MappedFile(path) if isinstance(path, str) else None
            self._maps[name] = mapped if mapped is not None and len(mapped.bytes) == self.files[name] else None
        return self._maps[name]


def _parse_refs(answer: Any) -> dict[str, str]:
    refs = [*answer["tags"], *answer["branches"]]  # of a tag and a branch of one name, the hub resolves the branch
    return {str(ref["name"]): str(ref["targetCommit"]) for ref in refs}


def _parse_file(item: Any) -> RemoteFile | None:
    if item["type"] != "file":
        return None
    sha256 = str((item.get("lfs") or {}).get("oid", ""))
    return RemoteFile(str(item["path"]), int(item["size"]), sha256, str(item.get("oid", "")))
