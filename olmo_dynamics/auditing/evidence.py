"""Evidence of an audit: files, hashes, configs and (on request) tensor headers of every revision, but no weights.

On a hub, a revision costs one request for the list of its files, once: lists belong to commits, which never change, so they are
kept in the audit's record. A config is read once, however many revisions share it.

    >>> evidence = gather(open_source("allenai/OLMo-2-0425-1B"))  # doctest: +SKIP
    >>> evidence.listings["main"].files["model.safetensors"].size  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from olmo_dynamics.auditing.audit_record import AuditRecord, load_record, save_record
from olmo_dynamics.checkpoints import Checkpoint, KnownRun, Source, known_run
from olmo_dynamics.checkpoints.catalog.official_lists import OfficialList
from olmo_dynamics.checkpoints.source import CONFIG_FILE, MAX_CONFIG_BYTES
from olmo_dynamics.checkpoints.tensors import parse_object
from olmo_dynamics.errors import CheckpointError, UnknownRevisionError
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress

_WEIGHTS = re.compile(
    r"[^/]*\.safetensors|pytorch_model[^/]*\.bin|model\.pt|(?:model_and_optim/|model/)?__[0-9]+_[0-9]+\.distcp"
)

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name to dtype and shape."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's size in bytes, and a hash that files of the same bytes share."""

    size: int
    id: str


@dataclass(frozen=True, slots=True)
class RevisionFiles:
    """The files of one revision, with hashes of weights and configs. `problem` tells why the files could not be listed."""

    revision: Revision
    files: Mapping[str, FileFacts]
    problem: str = ""

    @property
    def weights(self) -> dict[str, FileFacts]:
        """The files that hold weights, by name."""
        return {name: facts for name, facts in sorted(self.files.items()) if _WEIGHTS.fullmatch(name)}

    @property
    def state(self) -> str:
        """A text that changes when the revision does: its commit, or else a hash over its files' hashes."""
        if self.revision.commit:
            return self.revision.commit
        lines = "\n".join(f"{facts.id} {facts.size} {name}" for name, facts in sorted(self.files.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the checks read. `configs` is by the file's hash; `before` maps revisions to states of the last audit."""

    source: str
    revisions: tuple[Revision, ...]
    run: KnownRun | None = None
    listings: Mapping[str, RevisionFiles] = field(default_factory=dict)
    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    headers: Mapping[str, Tensors] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    lists: tuple[OfficialList, ...] = ()

    def config_of(self, name: str) -> dict[str, Any] | None:
        """The config of a revision, None if there is no readable one."""
        facts = self.listings[name].files.get(CONFIG_FILE) if name in self.listings else None
        return self.configs.get(facts.id) if facts else None


def gather(
    source: Source,
    *,
    headers: Collection[str] = (),
    lists: tuple[OfficialList, ...] = (),
    listener: Progress | None = None,
) -> Evidence:
    """List every revision's files, and read the headers of those named in `headers`; the lists are kept in the record.

    Raises:
        SourceError: the source does not answer; the lists up to then are kept.
    """
    listener = listener or Progress()
    revisions = tuple(source.revisions(refresh=True))
    kept = load_record(source)
    listener.expect(revisions=len(revisions), nbytes=len(revisions))
    gathering = _Gathering(source, kept, headers)
    try:
        for revision in revisions:
            listener.begin(revision.name)
            gathering.add(revision)
            listener.advance(1)
            listener.finish(revision.name)
    except BaseException:
        listed = {**kept.listings, **gathering.by_commit()}
        save_record(source, replace(kept, listings=listed, configs=gathering.configs))
        raise
    states = {name: listing.state for name, listing in gathering.listings.items()}
    save_record(source, AuditRecord(states, gathering.by_commit(), gathering.configs))
    return Evidence(
        source.name, revisions, known_run(source.name), gathering.listings, gathering.configs, gathering.headers,
        gathering.broken, kept.states, lists,
    )  # fmt: skip


def gather_known(source: Source, revisions: Sequence[Revision]) -> Evidence:
    """List the files of some revisions, and nothing of others; those whose commit was listed before cost no request.

    Raises:
        SourceError: the source does not answer.
    """
    gathering = _Gathering(source, load_record(source), ())
    for revision in revisions:
        gathering.add(revision)
    return Evidence(
        source.name,
        tuple(revisions),
        known_run(source.name),
        gathering.listings,
        gathering.configs,
        {},
        gathering.broken,
    )


class _Gathering:
    """Listings, configs and headers read so far."""

    def __init__(self, source: Source, kept: AuditRecord, headers: Collection[str]) -> None:
        self.listings: dict[str, RevisionFiles] = {}
        self.configs: dict[str, dict[str, Any]] = dict(kept.configs)
        self.headers: dict[str, Tensors] = {}
        self.broken: dict[str, str] = {}
        self._source, self._kept, self._headers_of = source, kept, frozenset(headers)

    def add(self, revision: Revision) -> None:
        """List one revision, from the record if its commit was listed before."""
        files = self._kept.listings.get(revision.commit) if revision.commit else None
        config_known = files is not None and (CONFIG_FILE not in files or files[CONFIG_FILE][1] in self.configs)
        if files is not None and config_known and revision.name not in self._headers_of:
            self.listings[revision.name] = RevisionFiles(
                revision, {name: FileFacts(*facts) for name, facts in files.items()}
            )
            return
        try:
            with self._source.open(revision) as checkpoint:
                self._read(checkpoint)
        except (CheckpointError, UnknownRevisionError) as problem:
            self.listings[revision.name] = RevisionFiles(revision, {}, str(problem))

    def by_commit(self) -> dict[str, dict[str, tuple[int, str]]]:
        """The files listed so far, in the record's form."""
        return {
            listing.revision.commit: {name: (facts.size, facts.id) for name, facts in listing.files.items()}
            for listing in self.listings.values()
            if listing.revision.commit and not listing.problem
        }

    def _read(self, checkpoint: Checkpoint) -> None:
        name = checkpoint.revision.name
        hashed = {file for file in checkpoint.files if file == CONFIG_FILE or _WEIGHTS.fullmatch(file)}
        files = {
            file: FileFacts(size, checkpoint.file_id(file) if file in hashed else "")
            for file, size in checkpoint.files.items()
        }
        self.listings[name] = RevisionFiles(checkpoint.revision, files)
        config = files.get(CONFIG_FILE)
        try:
            if config and config.id not in self.configs:
                self.configs[config.id] = _read_config(checkpoint)
            if name in self._headers_of:
                self.headers[name] = {each.name: (each.dtype, each.shape) for each in checkpoint.tensors.values()}
        except CheckpointError as problem:
            self.broken[name] = str(problem)


def _read_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The file as it was published, whatever the format; `Checkpoint.config` translates it to Hugging Face's names."""
    size = checkpoint.files[CONFIG_FILE]
    if size > MAX_CONFIG_BYTES:
        raise CheckpointError(
            f"{checkpoint.label}: {CONFIG_FILE} must have at most {MAX_CONFIG_BYTES} bytes (got {size})"
        )
    return parse_object(checkpoint.read_file(CONFIG_FILE), f"{checkpoint.label}: {CONFIG_FILE}", CheckpointError)
