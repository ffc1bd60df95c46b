"""Checkpoints held in memory, for examples and tests: the smallest whole source.

>>> source = MemorySource({"step0": {"config.json": b"{}"}})
>>> source.open(source.find("step0")).config
{}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from olmo_dynamics.checkpoints.catalog.positions import Origin, of_fork
from olmo_dynamics.checkpoints.catalog.revision_names import named_revision
from olmo_dynamics.checkpoints.source import Checkpoint, Source
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.names import Revision


class MemorySource(Source):
    """Revisions given as `{revision: {file: bytes}}`; `origin` is the checkpoint from which they were forked."""

    kind = "memory"

    def __init__(
        self, contents: Mapping[str, Mapping[str, bytes]], name: str = "memory", *, origin: Origin | None = None
    ) -> None:
        self.name = name
        self._contents = contents
        self._origin = origin

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """The given revisions, in training order."""
        return of_fork(map(named_revision, self._contents), self._origin)

    def open(self, revision: Revision) -> Checkpoint:
        """The checkpoint of that name."""
        found = self.find(revision.name)
        return MemoryCheckpoint(self.name, found, self._contents[found.name])


class MemoryCheckpoint(Checkpoint):
    """Files as bytes; its arrays are views of them."""

    def __init__(self, source: str, revision: Revision, contents: Mapping[str, bytes]) -> None:
        super().__init__(source, revision, {name: len(content) for name, content in contents.items()})
        self._contents = contents

    def close(self) -> None:
        """Nothing is held open."""

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        self._moved += sum(span.stop - span.start for span in spans)
        return [np.frombuffer(self._contents[file], np.uint8)[start:stop] for file, start, stop in spans]

    def release_spans(self, spans: Sequence[Span]) -> None:
        """Nothing is mapped."""
