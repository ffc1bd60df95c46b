"""A repo in the Hugging Face cache as a source: downloaded where there is a network, read where there is none.

The cache keeps a repo in `models--ORG--NAME/`: `refs/` has a file per name that was asked for, holding a commit, and
`snapshots/` a folder per commit, whose files are links to `blobs/`, or copies. Each name is a revision, and so is each commit
without a name. A snapshot whose weights or config are not all there is left out, and `notes` says why.

    >>> source = CacheSource.of_repo("allenai/OLMo-2-0425-1B")                                  # doctest: +SKIP
    >>> [revision.name for revision in source.revisions()]                                      # doctest: +SKIP
    ['stage1-step10000-tokens21B', 'main']
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from olmo_dynamics.checkpoints.catalog.known_runs import known_run
from olmo_dynamics.checkpoints.catalog.positions import with_positions
from olmo_dynamics.checkpoints.catalog.revision_names import named_revision, sort_key
from olmo_dynamics.checkpoints.folder import FolderCheckpoint
from olmo_dynamics.checkpoints.source import CONFIG_FILE, Checkpoint, Source
from olmo_dynamics.errors import CheckpointError, UnknownRevisionError, UnknownSourceError
from olmo_dynamics.names import Revision

_PREFIX = "models--"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONG_NAMES = ("refs/heads/", "refs/tags/")  # a hub lists branches and tags without them
_SHOWN = 5


class CacheSource(Source):
    """The names and snapshots of one repo in the Hugging Face cache.

    Args:
        folder: `models--ORG--NAME`.
        commit: the one snapshot to read; all of them unless given.
    """

    kind = "cache"

    def __init__(self, folder: str | Path, *, commit: str = "") -> None:
        self._folder, self._only = Path(folder), commit
        self.name = self._folder.name.removeprefix(_PREFIX).replace("--", "/")
        self._partial: Mapping[str, str] = {}

    @classmethod
    def of_repo(cls, repo_id: str) -> Self:
        """The repo in the cache that huggingface_hub uses (HF_HUB_CACHE, HF_HOME or XDG_CACHE_HOME)."""
        return cls(Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model"))

    @classmethod
    def at(cls, path: str | Path) -> Self | None:
        """The source at a path into the cache: the repo's folder, its `snapshots`, or one of these; None elsewhere."""
        whole = Path(path).expanduser().resolve()
        for folder, commit in ((whole, ""), (whole.parent, ""), (whole.parent.parent, whole.name)):
            is_inside = folder == whole or whole.parts[len(folder.parts)] == "snapshots"
            if is_inside and folder.name.startswith(_PREFIX) and (folder / "snapshots").is_dir():
                return cls(folder, commit=commit)
        return None

    @property
    def exists(self) -> bool:
        """True if the cache has a snapshot of the repo, whole or in part."""
        return bool(self._snapshots())

    @property
    def notes(self) -> tuple[str, ...]:
        """The revisions left out by the last listing, with the reasons."""
        if not self._partial:
            return ()
        reasons = [f"{name} ({reason})" for name, reason in list(self._partial.items())[:_SHOWN]]
        more = ", …" if len(self._partial) > _SHOWN else ""
        return (f"left out, since {self._folder} holds only a part of them: {', '.join(reasons)}{more}",)

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """Every name whose snapshot is whole, and every whole snapshot without a name, in training order.

        Raises:
            UnknownSourceError: there is none.
        """
        snapshots, run = self._snapshots(), known_run(self.name)
        problems = {commit: _missing_part(self._checkpoint(Revision(commit, commit=commit))) for commit in snapshots}
        names = self._named()
        names |= {commit: commit for commit in snapshots if commit not in names.values()}
        problem_of = {name: problems.get(commit, "its snapshot is missing") for name, commit in names.items()}
        self._partial = {name: problem for name, problem in problem_of.items() if problem}
        found = [
            replace(named_revision(name), commit=names[name]) for name, problem in problem_of.items() if not problem
        ]
        if not found:
            raise UnknownSourceError(
                f"the Hugging Face cache holds no whole snapshot of {self.name} in {self._folder}"
                f"{''.join(f'; {note}' for note in self.notes)}; download one where there is a network: "
                f"hf download {self.name} --revision NAME"
            )
        known = [replace(each, tokens=run.tokens_at(each)) if run else each for each in found]
        return sorted(with_positions(known, run, whole=False), key=sort_key)

    def find(self, name: str) -> Revision:
        """The revision of that exact name, or of that commit hash (all 40 digits).

        Raises:
            UnknownRevisionError: the cache does not hold it, or only a part of it.
        """
        if name in self._snapshots():
            return Revision(name, commit=name)
        return super().find(name)

    def open(self, revision: Revision) -> Checkpoint:
        """The checkpoint in the snapshot of the revision's commit, or else of its name.

        Raises:
            UnknownRevisionError: the cache does not hold it, or only a part of it.
        """
        pinned = revision if revision.commit in self._snapshots() else self.find(revision.name)
        checkpoint = self._checkpoint(pinned)
        if problem := _missing_part(checkpoint):
            raise self._refused(revision.name, problem)
        return checkpoint

    @property
    def local_folder(self) -> Path | None:
        """The repo's folder in the cache."""
        return self._folder

    def holds(self, revision: Revision) -> bool:
        """True if the whole snapshot of the revision's commit is there."""
        return revision.commit in self._snapshots() and not _missing_part(self._checkpoint(revision))

    def unknown_revision(self, name: str) -> UnknownRevisionError:
        """The error about a name that the cache does not hold, or only in part, with the names near it."""
        unknown = super().unknown_revision(name)
        return self._refused(name, self._partial[name]) if name in self._partial else unknown

    def _refused(self, name: str, problem: str) -> UnknownRevisionError:
        return UnknownRevisionError(
            f"{self.name}@{name} is only partly in the Hugging Face cache: {problem}; where there is a network, "
            f"run hf download {self.name} --revision {name}"
        )

    def _checkpoint(self, revision: Revision) -> CacheCheckpoint:
        return CacheCheckpoint(self.name, revision, self._folder / "snapshots" / revision.commit)

    def _snapshots(self) -> list[str]:
        """The commits that have a folder."""
        found = sorted(child.name for child in self._folder.glob("snapshots/*") if child.is_dir())
        return [commit for commit in found if commit == self._only] if self._only else found

    def _named(self) -> dict[str, str]:
        """The commit of each name in `refs/`, which has folders where names hold a slash."""
        root = self._folder / "refs"
        files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
        found = {
            _short(path.relative_to(root).as_posix()): path.read_text("utf-8", "replace").strip() for path in files
        }
        return {name: commit for name, commit in found.items() if self._only in ("", commit)}


class CacheCheckpoint(FolderCheckpoint):
    """Files of one snapshot; the hash of a large one is the name of the blob that it links to."""

    def __init__(self, source: str, revision: Revision, folder: Path) -> None:
        super().__init__(source, revision, folder)
        links = [path for path in folder.rglob("*") if path.is_symlink()]
        self.dangling = sorted(path.relative_to(folder).as_posix() for path in links if not path.exists())
        self._blobs = {path.relative_to(folder).as_posix(): path.resolve().name for path in links if path.is_file()}

    @property
    def expected_sha256(self) -> Mapping[str, str]:
        """The hub's own hashes of the safetensors weights, where files link to blobs named after them."""
        if self.stored_as:
            return {}
        with self._naming_revision():
            return {name: blob for name in self.weight_files if _SHA256.fullmatch(blob := self._blobs.get(name, ""))}

    def file_sha256(self, name: str) -> str:
        """The hub's own hash of a large file; a small one, or a copy, is read."""
        blob = self._blobs.get(name, "")
        return blob if _SHA256.fullmatch(blob) else super().file_sha256(name)

    def file_id(self, name: str) -> str:
        """The name of the file's blob, which is the hash that the hub lists; a copy is read."""
        return self._blobs.get(name) or super().file_id(name)


def _missing_part(checkpoint: CacheCheckpoint) -> str:
    """The part that a snapshot lacks, in words; empty if its config and all weights are there."""
    files = checkpoint.files
    if checkpoint.dangling:
        return f"{checkpoint.dangling[0]} was not downloaded whole"
    if CONFIG_FILE not in files and "config.yaml" not in files:
        return f"{CONFIG_FILE} is missing"
    try:
        missing = [name for name in checkpoint.weight_files if name not in files]
    except CheckpointError as problem:
        return str(problem).removeprefix(f"{checkpoint.label}: ").partition("; ")[0]
    return f"{missing[0]} is missing" if missing else ""


def _short(name: str) -> str:
    for prefix in _LONG_NAMES:
        name = name.removeprefix(prefix)
    return name
