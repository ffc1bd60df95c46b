"""Checkpoints in a folder: one sub-folder per revision, the folder itself as one checkpoint, or both.

Where a folder with a model also has sub-folders such as `checkpoint-500`, as transformers' Trainer writes them, those are its
revisions, and the model beside them is the revision `main`.

Files are memory-mapped, so a tensor's bytes are a view of the page cache: nothing is copied, and nothing is read before it
is used. The folders that a fork writes (`step{N}-tokens{T}/`) are read back the same way.

    >>> source = FolderSource("cache/forks/a")                                                  # doctest: +SKIP
    >>> [revision.step for revision in source.revisions()]                                      # doctest: +SKIP
    [0, 100, 200]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from olmo_dynamics.checkpoints.catalog.positions import Origin, of_fork
from olmo_dynamics.checkpoints.catalog.revision_names import named_revision, parse_revision
from olmo_dynamics.checkpoints.file_hashes import read_sums
from olmo_dynamics.checkpoints.mapped import MappedFile
from olmo_dynamics.checkpoints.source import CONFIG_FILE, Checkpoint, Source
from olmo_dynamics.checkpoints.tensors import Span, weight_files
from olmo_dynamics.errors import CheckpointError, UnknownSourceError
from olmo_dynamics.files import Place
from olmo_dynamics.names import Revision

OTHER_FORMATS = {
    "model_and_optim": "olmo-core",
    ".metadata": "olmo-core",
    "config.yaml": "olmo",
    "model.pt": "olmo",
    "pytorch_model.bin": "pytorch",
    "pytorch_model.bin.index.json": "pytorch",
}
"""The format of a checkpoint, by a file that only this format has; the first file found decides."""


ROOT = "main"
"""The name of a model that lies beside the folders of its run's checkpoints."""


class FolderSource(Source):
    """A folder whose sub-folders with a config or weights are revisions, or that is itself one checkpoint."""

    kind = "folder"

    def __init__(self, folder: str | Path) -> None:
        self.name = str(folder)
        self._folder: Place = Path(folder).expanduser().absolute()

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """The revisions now in the folder, in training order; other sub-folders are skipped.

        Raises:
            UnknownSourceError: the folder does not exist, or holds no checkpoint.
        """
        homes = self._homes()
        found = (replace(named_revision(name), format=_format(home)) for name, home in homes.items())
        return of_fork(found, _origin(homes.values()))

    def open(self, revision: Revision) -> Checkpoint:
        """The checkpoint of that name."""
        return self._opened(self.find(revision.name), self._homes())

    def open_each(self, revisions: Iterable[Revision]) -> Iterator[Checkpoint]:
        """Open revisions of the last listing one after another, with one look at the folder."""
        homes = self._homes()
        return (self._opened(revision, homes) for revision in revisions)

    def _opened(self, revision: Revision, homes: dict[str, Place]) -> Checkpoint:
        home, others = self._home(revision, homes)
        assert isinstance(home, Path)
        return FolderCheckpoint(self.name, revision, home, others)

    @property
    def local_folder(self) -> Path | None:
        """The folder; None for one in a bucket."""
        return self._folder if isinstance(self._folder, Path) else None

    @staticmethod
    def _home(revision: Revision, homes: dict[str, Place]) -> tuple[Place, frozenset[str]]:
        """The folder of a revision, and the names of the folders in it that are other revisions."""
        home = homes[revision.name]
        return home, frozenset(each.name for each in homes.values() if each.parent == home)

    def _homes(self) -> dict[str, Place]:
        folder = self._folder
        if not folder.is_dir():
            raise UnknownSourceError(f"{self.name} is not a folder; check the path")
        homes: dict[str, Place] = {
            child.name: child for child in folder.iterdir() if child.is_dir() and _is_checkpoint(child)
        }
        if _is_whole(folder):
            saved = {name: home for name, home in homes.items() if parse_revision(name).step is not None}
            return {**saved, ROOT: folder} if saved else {folder.resolve().name: folder}
        if not homes and _has_weights(folder):
            return {folder.resolve().name: folder}
        if not homes:
            raise UnknownSourceError(
                f"{self.name} holds no checkpoint: {CONFIG_FILE} and weights must be in it, or in sub-folders such as "
                "step1000-tokens2097152"
            )
        return homes


class FolderCheckpoint(Checkpoint):
    """Files in one folder, less those of the sub-folders `others`; its arrays are views of mapped files."""

    def __init__(self, source: str, revision: Revision, folder: Path, others: frozenset[str] = frozenset()) -> None:
        children = (child for child in folder.iterdir() if child.name not in others)
        own = (path for child in children for path in ((child,) if child.is_file() else child.rglob("*")))
        paths = sorted(path for path in own if path.is_file())
        super().__init__(source, revision, {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths})
        self._folder = folder
        self._maps: dict[str, MappedFile] = {}

    def close(self) -> None:
        """Drop the mapped files; each is unmapped when the last array that views it is freed."""
        self._maps.clear()

    @property
    def expected_sha256(self) -> Mapping[str, str]:
        """The hashes that training wrote beside its own weights; none for a folder of another origin."""
        sums = {} if self.stored_as else read_sums(self)
        return {name: sums[name] for name in weight_files(self.read_spans, self.files) if name in sums} if sums else {}

    def file_sha256(self, name: str) -> str:
        """Hash of one file, read in small blocks."""
        with (self._folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        self._moved += sum(span.stop - span.start for span in spans)
        return [self._mapped(span.file).bytes[span.start : span.stop] for span in spans]

    def release_spans(self, spans: Sequence[Span]) -> None:
        """Return the pages of mapped files; using them again reads the file again."""
        for span in spans:
            if span.file in self._maps:
                self._maps[span.file].release(span.start, span.stop)

    def _mapped(self, name: str) -> MappedFile:
        if name not in self._maps:
            mapped = MappedFile(self._folder / name)
            if len(mapped.bytes) != self.files[name]:
                raise CheckpointError(
                    f"{self.label}: {name} had {self.files[name]} bytes when it was opened, and now has {len(mapped.bytes)}; "
                    "wait until it is written, and open it again"
                )
            self._maps[name] = mapped
        return self._maps[name]


def _is_whole(folder: Place) -> bool:
    """True if the folder is itself one checkpoint: a config beside weights."""
    return any((folder / name).is_file() for name in (CONFIG_FILE, "config.yaml")) and _has_weights(folder)


def _is_checkpoint(folder: Place) -> bool:
    return (folder / CONFIG_FILE).is_file() or _has_weights(folder)


def _has_weights(folder: Place) -> bool:
    others = (name for name in OTHER_FORMATS if name != "config.yaml")
    return any(folder.glob("*.safetensors")) or any((folder / name).exists() for name in others)


def _format(folder: Place) -> str:
    found = next((form for name, form in OTHER_FORMATS.items() if (folder / name).exists()), "safetensors")
    return "safetensors" if found == "pytorch" and any(folder.glob("*.safetensors")) else found


def _origin(homes: Iterable[Place]) -> Origin | None:
    """The origin that the lineage of a fork's checkpoints names; None if the run is no fork, or has no readable lineage."""
    for home in homes:
        try:
            parent = json.loads((home / "lineage.json").read_bytes())["parent"]
            return Origin.of(str(parent["source"]), str(parent["revision"]))
        except (OSError, ValueError):
            continue
        except (KeyError, TypeError):  # trained from scratch: its parent is null
            return None
    return None
