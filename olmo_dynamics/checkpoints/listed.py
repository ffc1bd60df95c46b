"""A source together with the official lists of its native checkpoints; each step is opened where it exists.

>>> run = ListedSource(open_source("allenai/OLMo-2-1124-7B"), ["manifests"])  # doctest: +SKIP
>>> run.open(run.find("stage1-step0")).format  # the repo begins at step 150 # doctest: +SKIP
'olmo'
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from olmo_dynamics.checkpoints.catalog.availability import Availability, join_lists
from olmo_dynamics.checkpoints.catalog.known_runs import known_run
from olmo_dynamics.checkpoints.catalog.official_lists import find_lists
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.source import Checkpoint, Source
from olmo_dynamics.checkpoints.source_needs import hub_token, local_folder
from olmo_dynamics.errors import UnknownRevisionError
from olmo_dynamics.names import Revision


class ListedSource(Source):
    """A source that also opens the native directories of the steps it lacks; `lists` are files, or folders of files.

    Raises:
        SourceError: a list cannot be read, or no list of a folder belongs to the source.
    """

    def __init__(self, source: Source, lists: Sequence[str | Path], *, retry: RetryPolicy | None = None) -> None:
        self.name, self.kind = source.name, source.kind
        self._source, self._retry = source, retry
        self._rate: float | None = None
        self._run = known_run(source.name)
        self._lists = find_lists(lists, source.name, self._run)

    def availability(self, *, refresh: bool = False) -> list[Availability]:
        """Every revision and the places it can be fetched from, in training order."""
        return join_lists(self._source.revisions(refresh=refresh), self._lists, self._run)

    def revisions(self, *, refresh: bool = False) -> list[Revision]:
        """Revisions of the source, and those that only the lists have."""
        return [each.revision for each in self.availability(refresh=refresh)]

    def find(self, name: str) -> Revision:
        """The revision of that name; a name on no list is left to the source, which may know more of it."""
        try:
            return super().find(name)
        except UnknownRevisionError:
            return self._source.find(name)

    def open(self, revision: Revision) -> Checkpoint:
        """The checkpoint, from the source if it has it, else from its native directory.

        Raises:
            UnknownSourceError: there is no checkpoint at the listed address.
        """
        found = next((each for each in self.availability() if each.revision.name == revision.name), None)
        if found is None or found.hub:
            return self._source.open(revision)
        from olmo_dynamics.checkpoints.web import WebSource  # huggingface_hub's client takes a third of a second

        native = WebSource(found.native_url, revision=found.revision, retry=self._retry)
        native.limit_rate(self._rate)
        return native.open(found.revision)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the source's own list."""
        return self._source.notes

    def limit_rate(self, bytes_per_second: float | None) -> None:
        """Limit the bytes received per second from the source, and from each native directory."""
        self._source.limit_rate(bytes_per_second)
        self._rate = bytes_per_second

    @property
    def local_folder(self) -> Path | None:
        """The folder of the source, if it is one."""
        return local_folder(self._source)

    @property
    def hub_token(self) -> str:
        """The token of the source."""
        return hub_token(self._source)

    def catalogue_age(self) -> float | None:
        """Seconds since the source's own list was fetched."""
        return self._source.catalogue_age()
