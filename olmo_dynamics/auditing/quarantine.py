"""Revisions to leave out, with the reasons: what an audit writes and `collect` obeys.

Every audit leaves its quarantine in the cache, where `collect` looks for it by itself; a file of one's own can be kept with a
study and shared. It is plain JSON, and may be edited:

    {"source": "allenai/OLMo-2-1124-7B", "audited_at": "2026-01-01T00:00:00+00:00", "revisions": {
        "stage1-step101000-tokens424B": {"reasons": ["…"], "commit": "…"}}}
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from olmo_dynamics.auditing.findings import Finding
from olmo_dynamics.auditing.record import quarantine_path, source_name, write_json
from olmo_dynamics.checkpoints import Source
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Revision


@dataclass(frozen=True, slots=True)
class Held:
    """Why a revision is left out, and the commit that was looked at (empty for folders)."""

    reasons: tuple[str, ...]
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The revisions of a source to leave out; `path` is the file they were read from, None if there is none."""

    source: str
    revisions: Mapping[str, Held] = field(default_factory=dict)
    audited_at: str = ""
    path: Path | None = None

    def reason(self, revision: Revision) -> str:
        """Why a revision is left out, in one line; empty if it is not."""
        held = self.revisions.get(revision.name)
        if held is None:
            return ""
        moved = held.commit and revision.commit and held.commit != revision.commit
        return "; ".join(held.reasons) + ("; it changed since, so audit again" if moved else "")


def quarantine_of(source: Source, findings: Iterable[Finding], commits: Mapping[str, str]) -> Quarantine:
    """The quarantine that findings ask for."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        for name in finding.quarantine:
            reasons[name].append(finding.line)
    held = {name: Held(tuple(lines), commits.get(name, "")) for name, lines in reasons.items()}
    return Quarantine(source_name(source), held, datetime.now(UTC).isoformat(timespec="seconds"))


def save_quarantine(quarantine: Quarantine, path: str | Path) -> Path:
    """Write a quarantine, whole or not at all.

    Raises:
        OptionError: there is no writing there.
    """
    target = Path(path).expanduser()
    content = {
        "source": quarantine.source,
        "audited_at": quarantine.audited_at,
        "revisions": {
            name: {"reasons": list(held.reasons), "commit": held.commit} for name, held in quarantine.revisions.items()
        },
    }
    try:
        write_json(target, content)
    except OSError as problem:
        raise OptionError(f"the quarantine cannot be written to {path}: {problem.strerror or problem}") from None
    return target


def find_quarantine(source: Source, path: str | Path | None = None) -> Quarantine:
    """The quarantine in a file, else the one that the last audit of the source left; an empty one where there is none.

    Raises:
        OptionError: the file is missing, cannot be read, or is another source's.
    """
    if path is not None:
        return _load(Path(path).expanduser(), source)
    kept = quarantine_path(source)
    return _load(kept, source) if kept.is_file() else Quarantine(source_name(source))


def _load(path: Path, source: Source) -> Quarantine:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        held = {
            str(name): Held(tuple(map(str, entry["reasons"])), str(entry.get("commit", "")))
            for name, entry in content["revisions"].items()
        }
        found = Quarantine(str(content["source"]), held, str(content.get("audited_at", "")), path)
    except OSError as problem:
        raise OptionError(f"the quarantine {path} cannot be read: {problem.strerror or problem}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OptionError(
            f"wanted a quarantine as `olmo-dyn audit {source.name}` writes it, {path} is none; audit again"
        ) from None
    if found.source != source_name(source):
        raise OptionError(f"{path} is the quarantine of {found.source}, not of {source_name(source)}")
    return found
