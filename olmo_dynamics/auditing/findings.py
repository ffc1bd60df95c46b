"""What an audit says: one `Finding` a thing that is wrong, or worth knowing, about published revisions.

>>> Finding("duplicate", Severity.WRONG, ("step1", "step2"), "bytes of their own", "the same sha256 in every file").line
'duplicate: the same sha256 in every file (wanted bytes of their own)'
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
    "shards": "weights cut into other files than most",
    "config": "config.json differs",
    "cadence": "steps that are missing from the cadence, or off it",
    "label": "a token label that the step contradicts",
    "name": "a name unlike the others, or two names of one step",
    "moved": "a branch that changed, or went, since the last audit",
    "known": "reported earlier, by others",
    "list": "a mistake in an official list",
    "availability": "a step that the hub has and the list lacks, or the other way round",
}
"""What each kind of finding is about."""


class Severity(StrEnum):
    """How far a finding goes."""

    WRONG = "wrong"  # what is published is not what its name says
    DOUBTFUL = "doubtful"  # look before you compare
    NOTE = "note"  # true, and no fault


ORDER = tuple(Severity)
"""Severities, worst first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: what was expected, what was found, of which revisions, and where it is documented.

    `place` names the official list it is about, empty for the repo itself. `quarantine` names the revisions whose weights
    cannot be what their names say, which may be fewer than `revisions`.
    """

    kind: str
    severity: Severity
    revisions: tuple[str, ...]
    expected: str
    found: str
    place: str = ""
    reference: str = ""
    quarantine: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a finding's kind is one of {', '.join(KINDS)}; got {self.kind!r}")
        if not set(self.quarantine) <= set(self.revisions):
            raise ValueError(f"a finding quarantines revisions that it is about; got {self}")

    @property
    def line(self) -> str:
        """The finding in one line, without the revisions."""
        expected = f" (wanted {self.expected})" if self.expected else ""
        reference = f" [{self.reference}]" if self.reference else ""
        place = f"{self.place}: " if self.place else ""
        return f"{self.kind}: {place}{self.found}{expected}{reference}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, and how many there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"


def counted(count: int, noun: str) -> str:
    """`1 step`, `23 steps`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
