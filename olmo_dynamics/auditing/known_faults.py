"""Faults of this repo that were reported before, from `known_runs.toml`, with a note if this audit no longer sees them.

>>> from olmo_dynamics.checkpoints import known_run
>>> repo = "allenai/OLMo-2-1124-7B"
>>> [finding.reference for finding in find_known(Evidence(repo, (), known_run(repo)))][0]
'allenai/OLMo issue 915'
"""

from __future__ import annotations

from olmo_dynamics.auditing.evidence import Evidence
from olmo_dynamics.auditing.findings import Finding, Severity, some
from olmo_dynamics.checkpoints import select
from olmo_dynamics.checkpoints.catalog.known_runs import Fault
from olmo_dynamics.errors import SelectionError


def find_known(evidence: Evidence) -> list[Finding]:
    """One finding per known fault of this repo; faults of lists only if lists are audited."""
    faults = evidence.run.faults_of(evidence.source) if evidence.run else ()
    return [_finding(fault, evidence) for fault in faults if fault.kind != "list" or evidence.lists]


def _finding(fault: Fault, evidence: Evidence) -> Finding:
    names = _matched(fault, evidence) if fault.kind != "list" else ()
    text = fault.what
    if fault.kind == "missing":
        text = f"{text} ({some(fault.revisions)}{f'; {len(names)} of them exist now' if names else ''})"
    elif not names:
        text = f"{text} ({some(fault.revisions)})"
    still = fault.kind != "duplicate" or _still_equal(names, evidence)
    if not still:
        text = f"{text}; this audit no longer sees it"
    severity = Severity.NOTE
    if fault.kind == "rewritten" or (fault.kind == "duplicate" and still):
        severity = Severity.DOUBTFUL
    return Finding("known", severity, names, "", text, reference=fault.reference)


def _matched(fault: Fault, evidence: Evidence) -> tuple[str, ...]:
    """The revisions of this source that the fault's terms name."""
    found: list[str] = []
    for term in fault.revisions:
        try:
            found += [revision.name for revision in select(evidence.revisions, term)]
        except SelectionError:
            continue  # there is no such revision, or no longer
    return tuple(dict.fromkeys(found))


def _still_equal(names: tuple[str, ...], evidence: Evidence) -> bool:
    """True if at least two of the names still hold the same weights, as far as the files were listed."""
    if not all(name in evidence.listings for name in names):
        return True
    hashes = [tuple(facts.id for facts in evidence.listings[name].weights.values()) for name in names]
    return len(set(hashes)) < len(hashes)
