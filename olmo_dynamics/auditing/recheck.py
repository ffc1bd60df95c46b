"""Revisions in quarantine that changed since the audit: they are audited again rather than excluded.

>>> now, notes = recheck(source, find_quarantine(source), selected)  # doctest: +SKIP
>>> notes  # doctest: +SKIP
('step4000 changed since the audit that excluded it; audited again, it has no fault',)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from olmo_dynamics.auditing.audit_record import source_name
from olmo_dynamics.auditing.checks import inspect
from olmo_dynamics.auditing.evidence import Evidence, gather_known
from olmo_dynamics.auditing.quarantine import Quarantine, QuarantineEntry, quarantine_of
from olmo_dynamics.checkpoints import Source
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Revision


def recheck(source: Source, found: Quarantine, revisions: Sequence[Revision]) -> tuple[Quarantine, tuple[str, ...]]:
    """The quarantine as it holds now for some revisions, and a note for each that was audited again.

    An entry holds for the state that it was found at: a commit, or the contents of a folder's files. A revision with another
    state is audited again, beside the others in quarantine. Finding the state of a folder's revision reads its weights.

    Raises:
        OptionError: the quarantine is that of another folder, none of whose revisions is here.
        SourceError: the source does not answer.
    """
    suspects = [each for each in revisions if _may_differ(found, each)]
    if not suspects:
        return found, ()
    names = {*found.revisions, *(each.name for each in suspects)}
    evidence = gather_known(source, [each for each in source.revisions() if each.name in names])
    moved = [each.name for each in suspects if _state(evidence, each.name) != found.revisions[each.name].state]
    if source.kind == "folder" and found.source != source_name(source) and len(moved) == len(suspects):
        raise OptionError(f"{found.path} is the quarantine of {found.source}, not of {source_name(source)}")
    now = quarantine_of(source_name(source), inspect(evidence), {name: _state(evidence, name) for name in moved})
    entries = {name: entry for name, entry in found.revisions.items() if name not in moved}
    entries |= {name: now.revisions[name] for name in moved if name in now.revisions}
    return replace(found, revisions=entries), tuple(_note(name, entries.get(name)) for name in moved)


def _may_differ(found: Quarantine, revision: Revision) -> bool:
    entry = found.revisions.get(revision.name)
    return entry is not None and bool(entry.state) and entry.state != revision.commit


def _state(evidence: Evidence, name: str) -> str:
    return evidence.listings[name].state if name in evidence.listings else ""


def _note(name: str, entry: QuarantineEntry | None) -> str:
    part = "" if entry is None or entry.is_whole else " in part"
    outcome = f"it is excluded still{part}" if entry else "it has no fault"
    return f"{name} changed since the audit that excluded it; audited again, {outcome}"
