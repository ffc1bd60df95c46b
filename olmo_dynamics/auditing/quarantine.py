"""The quarantine: revisions to exclude, with the reasons, written by an audit and read by `collect`.

Every audit writes its quarantine to the cache, where `collect` looks for it by itself; a separate file can be kept with a study
and shared. It is plain JSON, and may be edited:

    {"source": "allenai/OLMo-2-1124-7B", "audited_at": "2026-01-01T00:00:00+00:00", "revisions": {
        "stage1-step101000-tokens424B": {"reasons": ["…"], "state": "…"},
        "stage1-step102000-tokens428B": {"reasons": ["…"], "state": "…", "files": ["model-00001-of-00006.safetensors"]}}}

An entry that names `files` (of weights) or `tensors` (names or globs) excludes these, and any other the whole revision. An
entry holds for the state that it was found at, not for the name: `recheck` audits a revision that changed since again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from olmo_dynamics.auditing.audit_record import known_quarantines, source_name, write_json
from olmo_dynamics.auditing.findings import Finding
from olmo_dynamics.checkpoints import Source
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Revision


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """The reasons to exclude a revision, and its audited state: the commit, or a hash over a folder's files; empty for any.

    With `files` or `tensors`, only the weights in these files, and the tensors of these names or globs, are excluded.
    """

    reasons: tuple[str, ...]
    state: str = ""
    files: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """True if the whole revision is excluded."""
        return not self.files and not self.tensors

    def excludes(self, tensor: str, files: Collection[str]) -> bool:
        """True if it excludes a tensor whose bytes are in some files."""
        named = any(fnmatchcase(tensor, pattern) for pattern in self.tensors)
        return self.is_whole or named or any(file in self.files for file in files)


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The revisions of a source to exclude; `path` is the file they were read from, None if there is none."""

    source: str
    revisions: Mapping[str, QuarantineEntry] = field(default_factory=dict)
    audited_at: str = ""
    path: Path | None = None

    def reason(self, revision: Revision) -> str:
        """The reasons to exclude a revision, in one line; empty if it is not excluded."""
        entry = self.revisions.get(revision.name)
        return "; ".join(entry.reasons) if entry else ""


def quarantine_of(source: str, findings: Iterable[Finding], states: Mapping[str, str]) -> Quarantine:
    """The quarantine that follows from findings about a source's revisions in these states."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        for name in finding.quarantine:
            found[name].append(finding)
    entries = {name: _entry(of_name, states.get(name, "")) for name, of_name in found.items()}
    return Quarantine(source, entries, datetime.now(UTC).isoformat(timespec="seconds"))


def _entry(findings: Sequence[Finding], state: str) -> QuarantineEntry:
    """The entry of one revision: of its files and tensors, unless a finding is about all of it."""
    reasons = tuple(finding.line for finding in findings)
    if any(not finding.files and not finding.tensors for finding in findings):
        return QuarantineEntry(reasons, state)
    files = sorted({file for finding in findings for file in finding.files})
    tensors = sorted({tensor for finding in findings for tensor in finding.tensors})
    return QuarantineEntry(reasons, state, tuple(files), tuple(tensors))


def save_quarantine(quarantine: Quarantine, path: str | Path) -> Path:
    """Write a quarantine, whole or not at all.

    Raises:
        OptionError: the file cannot be written.
    """
    target = Path(path).expanduser()
    content = {
        "source": quarantine.source,
        "audited_at": quarantine.audited_at,
        "revisions": {
            name: {"reasons": list(entry.reasons), "state": entry.state} | _parts(entry)
            for name, entry in quarantine.revisions.items()
        },
    }
    try:
        write_json(target, content)
    except OSError as problem:
        raise OptionError(f"the quarantine cannot be written to {path}: {problem.strerror or problem}") from None
    return target


def _parts(entry: QuarantineEntry) -> dict[str, list[str]]:
    """The files and tensors of an entry, as far as it names some."""
    parts = {"files": entry.files, "tensors": entry.tensors}
    return {name: list(values) for name, values in parts.items() if values}


def find_quarantine(source: Source, path: str | Path | None = None) -> Quarantine:
    """Read the quarantine in a file, else the one that the last audit of the source wrote; an empty one if there is none.

    Raises:
        OptionError: the file is missing, invalid, or belongs to another repo; folders move, so `recheck` compares them.
    """
    if path is not None:
        return _load(Path(path).expanduser(), source)
    kept = known_quarantines(source)
    return _load(kept[0], source) if kept else Quarantine(source_name(source))


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    """Several texts; one text alone is an error, since it would be read letter by letter."""
    if isinstance(values, str):
        raise TypeError(values)
    return tuple(map(str, values))


def _load(path: Path, source: Source) -> Quarantine:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = {
            str(name): QuarantineEntry(
                _texts(entry["reasons"]),
                str(entry.get("state", entry.get("commit", ""))),
                _texts(entry.get("files", [])),
                _texts(entry.get("tensors", [])),
            )
            for name, entry in content["revisions"].items()
        }
        found = Quarantine(str(content["source"]), entries, str(content.get("audited_at", "")), path)
    except OSError as problem:
        raise OptionError(f"the quarantine {path} cannot be read: {problem.strerror or problem}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"{path} is not a quarantine as `olmo-dyn audit {source.name}` writes it; audit again"
        ) from None
    if found.source != source_name(source) and source.kind != "folder":
        raise OptionError(f"{path} is the quarantine of {found.source}, not of {source_name(source)}")
    return found
