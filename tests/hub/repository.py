"""Contents of a hub: repositories of commits, commits of files, and their git and LFS hashes.

A file's bytes may lie in memory, on disk, or nowhere at all: anything with a `size` and a `read(start, stop)` will do, so a
checkpoint of many gigabytes can be served without existing.

    repository = Repository("org/name")
    first = repository.commit("main", {"config.json": b"{}"}, large_threshold=1 << 20)
    assert repository.find("main") is repository.find(first.id)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

ALWAYS_LARGE = (".safetensors", ".bin")
"""Endings that the hub's default `.gitattributes` keeps in LFS, however small the file."""

_CHUNK = 1 << 20  # 1 MiB
_FIRST_COMMIT = datetime(2025, 1, 1, tzinfo=UTC)


class Content(Protocol):
    """Bytes that can be read by span.

    A `sha256` attribute, where there is one, saves reading them all to hash them. So does a `key` (64 hex
    digits): such content is stored under it as a large file, and listed without a SHA-256.
    """

    @property
    def size(self) -> int:
        """Number of bytes."""

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """The bytes from `start` up to, not including, `stop`."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Content held in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        return self.data[start:stop]


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Content held in a file, as long as it was when it was added."""

    path: Path
    size: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


def as_content(given: bytes | Path | Content) -> Content:
    """Wrap bytes and paths so that they can be read by span."""
    if isinstance(given, bytes | bytearray | memoryview):
        return Memory(bytes(given))
    if isinstance(given, Path):
        return OnDisk(given, given.stat().st_size)
    return given


def as_files(given: str | Path | Mapping[str, bytes | Path | Content]) -> dict[str, Content]:
    """Name → content, from a mapping or from every file below a folder."""
    if isinstance(given, Mapping):
        return {name: as_content(content) for name, content in given.items()}
    folder = Path(given)
    return {path.relative_to(folder).as_posix(): as_content(path) for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True, slots=True)
class Blob:
    """One file of a commit: `oid` is git's hash (of the pointer if the file is in LFS), `sha256` is LFS's.

    `key` is what storage knows a large file by: its `sha256`, if that is known.
    """

    path: str
    content: Content
    oid: str
    sha256: str = ""
    pointer_size: int = 0
    key: str = ""

    @property
    def etag(self) -> str:
        """The hub's ETag: 64 hex digits for a large file, 40 for a small one."""
        return self.sha256 or self.oid


def _pieces(content: Content) -> Iterator[bytes | memoryview]:
    for start in range(0, content.size, _CHUNK):
        yield content.read(start, min(start + _CHUNK, content.size))


def _sha256(content: Content) -> str:
    known = getattr(content, "sha256", None)
    if known:
        return str(known)
    digest = hashlib.sha256()
    for piece in _pieces(content):
        digest.update(piece)
    return digest.hexdigest()


def _git_oid(content: Content) -> str:
    digest = hashlib.sha1(f"blob {content.size}\0".encode(), usedforsecurity=False)
    for piece in _pieces(content):
        digest.update(piece)
    return digest.hexdigest()


def make_blob(path: str, content: Content, large_threshold: int) -> Blob:
    """Hash a file the way the hub does: as an LFS object if it is large, as a git blob otherwise."""
    if (key := getattr(content, "key", "")) and not getattr(content, "sha256", ""):
        return Blob(path, content, key[:40], key=key)
    if content.size < large_threshold and not path.endswith(ALWAYS_LARGE):
        return Blob(path, content, _git_oid(content))
    sha256 = _sha256(content)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {content.size}\n".encode()
    return Blob(path, content, _git_oid(Memory(pointer)), sha256, len(pointer), sha256)


@dataclass(frozen=True, slots=True)
class Commit:
    """A state of the files, and the state before it."""

    id: str
    files: dict[str, Blob]
    title: str
    date: datetime
    parent: Commit | None = None

    @property
    def timestamp(self) -> str:
        """The date in the form of the hub's JSON."""
        return self.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass
class Repository:
    """A model repository: branches, tags and pull requests point at commits, and no commit is ever lost."""

    name: str
    private: bool = False
    gated: str | None = None  # "auto" or "manual"
    disabled: bool = False
    tokens: set[str] = field(default_factory=set)  # who may read it, where not everyone may
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    converts: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[str, Commit] = field(default_factory=dict)
    stored: dict[str, Blob] = field(default_factory=dict)  # large files by key
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(
        self, branch: str, files: Mapping[str, Content] | Mapping[str, bytes], *, large_threshold: int
    ) -> Commit:
        """Point a branch at a new commit; its hash follows from the files, the branch's name and the commit before."""
        blobs = {path: make_blob(path, content, large_threshold) for path, content in sorted(as_files(files).items())}
        parent = self.branches.get(branch)
        lines = [parent.id if parent else "", branch, *(f"{blob.etag} {path}" for path, blob in blobs.items())]
        made = Commit(
            id=hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest(),
            files=blobs,
            title=f"Upload {branch}",
            date=_FIRST_COMMIT + timedelta(minutes=len(self.commits)),
            parent=parent,
        )
        self.stored |= {blob.key: blob for blob in blobs.values() if blob.key}
        self.commits[made.id] = made
        self.branches[branch] = made
        return made

    def find(self, revision: str) -> Commit | None:
        """The commit that a branch, tag, `refs/pr/N` or hash names."""
        pull = self.pulls.get(revision.removeprefix("refs/pr/")) if revision.startswith("refs/pr/") else None
        short = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        return pull or self.branches.get(short) or self.tags.get(short) or self.commits.get(revision)


def history(commit: Commit) -> list[Commit]:
    """A commit and all before it, newest first."""
    line = [commit]
    while line[-1].parent is not None:
        line.append(line[-1].parent)
    return line
