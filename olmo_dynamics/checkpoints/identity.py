"""The identity of a run: the hashes of its revisions' weights, not the path that leads to them.

Folders are moved, copied and reached by other paths. Two are the same run if the revisions that both have hold the same
weights; a path kept in a store or a `lineage.json` is a hint where to look.

    >>> held = {"step0": "0f3c…", "step100": "9a1b…"}                                           # doctest: +SKIP
    >>> compare_weights(open_source("moved/run"), held).differing                               # doctest: +SKIP
    >>> find_folder("cache/demo/run", near=Path("copied/store.zarr"), accept=Path.is_dir)       # doctest: +SKIP
    PosixPath('copied/run')
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.checkpoints.source import Checkpoint, Source
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.files import Place
from olmo_dynamics.names import Revision

COMPARED_BYTES = 1 << 30
"""Bytes of local checkpoints that a comparison may read beyond its first revision: 1 GiB, about a second."""

LINEAGE_FILE = "lineage.json"
"""Written into each checkpoint by training: the parent of the run, and the hash of the weights it began with."""

_HUB_REVISIONS = 2  # on a hub the hash of each costs two requests


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of comparing weights: how many revisions were compared, and the first one that differs."""

    compared: int = 0
    differing: str = ""
    held: str = ""
    found: str = ""

    @property
    def same(self) -> bool:
        """True if at least one revision was compared, and none differs."""
        return self.compared > 0 and not self.differing


def compare_weights(
    source: Source, held: Mapping[str, str], *, limit: int | None = None, room: int = COMPARED_BYTES
) -> Comparison:
    """Compare a source's weights with the sha256 known for some of its revisions, by name.

    The last revision in training order comes first, since runs that share a beginning differ at their end. Of local files,
    the others are compared while they fit into `room` bytes together; on a hub only one more. Revisions that the source
    lacks or cannot read are passed over, and so are the weights that a fork began with: its parent has them too.

    Args:
        source: the run at hand.
        held: the sha256 of the weights by revision name, as `Checkpoint.weights_sha256` gives it; empty ones are ignored.
        limit: most bytes of a checkpoint to read even if it is the first; no limit unless given.
        room: most bytes of all others together.
    """
    compared, sampled = 0, _sampled(source, held)
    opened = source.open_each(sampled) if isinstance(source, FolderSource) else map(source.open, sampled)
    for revision, checkpoint in zip(sampled, opened, strict=True):
        with checkpoint:
            size = 0 if source.kind in _LISTED else sum(checkpoint.files.values())
            if size > (room if compared else limit or size):
                continue
            found = _known_hash(checkpoint)
        if not found:
            continue
        compared, room = compared + 1, room - (size if compared else 0)
        if found != held[revision.name]:
            return Comparison(compared, revision.name, held[revision.name], found)
    return Comparison(compared)


def find_folder(hint: str | Path, *, near: Place | None, accept: Callable[[Path], bool]) -> Path | None:
    """The folder that a path written down earlier stands for: beside `near`, or above it, then at the path as it stands.

    A file or folder that was copied together with the run finds the copy, from any working directory.

    Args:
        hint: a path as someone typed it, relative or absolute.
        near: the file or folder that the hint was found in; nothing is near one that is not on this machine.
        accept: the test that the folder has to pass.
    """
    around = [*folders_near(hint, near)] if isinstance(near, Path) else []
    own = (
        [near.resolve().parent] if isinstance(near, Path) else []
    )  # a run's folder that was renamed, with the file in it
    for folder in dict.fromkeys([*around, Path(hint).expanduser(), *own]):
        if folder.is_dir() and accept(folder):
            return folder
    return None


def folders_near(hint: str | Path, near: Path) -> Iterator[Path]:
    """The paths that end as the hint does and begin at a folder above `near`, the nearest first."""
    written = Path(hint).expanduser()
    parts = [part for part in written.parts if part not in (written.anchor, "..")]
    for ancestor in near.resolve().parents:
        for count in range(1, len(parts) + 1):
            yield ancestor.joinpath(*parts[-count:])


_LISTED = ("hub", "cache")  # kinds of sources that know hashes without reading the files


def _sampled(source: Source, held: Mapping[str, str]) -> Sequence[Revision]:
    listed = source.revisions()
    inherited = _inherited_hash(source, listed)
    common = [each for each in listed if held.get(each.name, inherited) not in ("", inherited)]
    ends_first = [*common[-1:], *common[:-1]]
    return ends_first if source.kind not in _LISTED else ends_first[:_HUB_REVISIONS]


def _inherited_hash(source: Source, revisions: Sequence[Revision]) -> str:
    """The hash of the weights that a fork of ours began with; empty for any other run."""
    if source.kind != "folder":
        return ""
    with source.open(revisions[0]) as checkpoint:
        if LINEAGE_FILE not in checkpoint.files:
            return ""
        with suppress(ValueError, AttributeError):
            return str((json.loads(checkpoint.read_file(LINEAGE_FILE)).get("parent") or {}).get("weights_sha256", ""))
    return ""


def _known_hash(checkpoint: Checkpoint) -> str:
    try:
        return checkpoint.known_sha256()
    except CheckpointError:
        return ""
