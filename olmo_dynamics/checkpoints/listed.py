"""A source together with the official lists of its native checkpoints: each step comes from whichever has it.

>>> run = ListedSource(open_source("allenai/OLMo-2-1124-7B"), ["manifests"])  # doctest: +SKIP
>>> run.open(run.find("stage1-step0")).format  # the repo begins at step 150 # doctest: +SKIP
'olmo'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from olmo_dynamics.checkpoints.availability import Availability, join_lists
from olmo_dynamics.checkpoints.official_lists import find_lists
from olmo_dynamics.checkpoints.patience import Patience
from olmo_dynamics.checkpoints.runs import known_run
from olmo_dynamics.checkpoints.source import Checkpoint, Source
from olmo_dynamics.errors import UnknownRevisionError
from olmo_dynamics.names import Revision


class ListedSource(Source):
    """A source that also opens the native directories of the steps it lacks; `lists` are files, or folders of them.

    Raises:
        SourceError: a list cannot be read, or none of a folder belongs to the source.
    """

    def __init__(self, source: Source, lists: Sequence[str | Path], *, patience: Patience | None = None) -> None:
        self.name, self.kind = source.name, source.kind
        self._source, self._patience = source, patience
        self._rate: float | None = None
        self._run = known_run(source.name)
        self._lists = find_lists(lists, source.name, self._run)

    def availability(self, *, refresh: bool = False) -> list[Availability]:
        """Every revision, and where it can be fetched from, in training order."""
        return join_lists(self._source.revisions(refresh=refresh), self._lists, self._run)

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """What the source has, and what only the lists have."""
        return [each.revision for each in self.availability(refresh=refresh)]

    def find(self, name: str) -> Revision:
        """The revision of that name; a name that no list has is left to the source, which may know more of it."""
        try:
            return super().find(name)
        except UnknownRevisionError:
            return self._source.find(name)

    def open(self, revision: Revision) -> Checkpoint:
        """The checkpoint, from the source where it has it, else from its native directory.

        Raises:
            UnknownSourceError: no checkpoint answers at the listed address.
        """
        found = next((each for each in self.availability() if each.revision.name == revision.name), None)
        if found is None or found.hub:
            return self._source.open(revision)
        from olmo_dynamics.checkpoints.web import WebSource  # huggingface_hub's client takes a third of a second

        native = WebSource(found.native_url, revision=found.revision, patience=self._patience)
        native.limit_rate(self._rate)
        return native.open(found.revision)

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Receive at most that much from the source, and from each native directory."""
        self._source.limit_rate(bytes_per_second)
        self._rate = bytes_per_second

    def catalogue_age(self) -> float | None:
        """Seconds since the source's own list was fetched."""
        return self._source.catalogue_age()
