"""Findings of an audit: one `Finding` per fault of published revisions, or per fact worth knowing.

>>> Finding("duplicate", Severity.WRONG, ("step1", "step2"), "bytes of their own", "the same sha256 in every file").line
'duplicate: the same sha256 in every file (expected bytes of their own)'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

KINDS = {
    "duplicate": "several names hold the same bytes",
    "incomplete": "weights, a shard or a config are missing, or a header cannot be read",
    "dtype": "weights of another dtype than most",
    "shape": "weights of another size or shape than most",
    "shards": "weights split into other files than most",
    "config": "config.json differs",
    "cadence": "steps that are missing from the cadence, or off it",
    "label": "a token label that the step contradicts",
    "name": "a name unlike the others, two names of one step, or several seeds in one repo",
    "moved": "a branch that changed or was deleted since the last audit",
    "known": "reported earlier, by others",
    "list": "a mistake in an official list",
    "out of line": "a step whose statistics lie far beyond those of both its neighbours",
    "test": "the extent of a test, and its false-alarm rate",
    "availability": "a step that the hub has and the list lacks, or the other way round",
}
"""The kinds of findings, each with its description."""


class Severity(StrEnum):
    """Severity of a finding."""

    WRONG = "wrong"  # the published bytes are not those that the name says
    DOUBTFUL = "doubtful"  # check before you compare
    NOTE = "note"  # true, but not a fault


ORDER = tuple(Severity)
"""Severities, worst first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: the expected and the actual state, the revisions concerned, and a reference.

    `place` names the official list concerned, empty for the repo itself. `quarantine` names the revisions whose weights
    cannot be those that their names say, which may be fewer than `revisions`; where `files` or `tensors` are given, only the
    weights in these.
    """

    kind: str
    severity: Severity
    revisions: tuple[str, ...]
    expected: str
    found: str
    place: str = ""
    reference: str = ""
    quarantine: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a finding's kind must be one of {', '.join(KINDS)} (got {self.kind!r})")
        if not set(self.quarantine) <= set(self.revisions):
            raise ValueError(f"a finding's quarantine must be among its revisions (got {self})")

    @property
    def line(self) -> str:
        """The finding in one line, without the revisions."""
        expected = f" (expected {self.expected})" if self.expected else ""
        reference = f" [{self.reference}]" if self.reference else ""
        place = f"{self.place}: " if self.place else ""
        return f"{self.kind}: {place}{self.found}{expected}{reference}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, and their number."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
