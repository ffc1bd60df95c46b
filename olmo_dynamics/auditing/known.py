"""What was reported of this repo before, from `runs.toml`, and whether this audit still sees it.

>>> [finding.reference for finding in find_known(evidence)]  # doctest: +SKIP
['allenai/OLMo issue 915', …]
"""

from __future__ import annotations

from olmo_dynamics.auditing.evidence import Evidence
from olmo_dynamics.auditing.findings import Finding, Severity, some
from olmo_dynamics.checkpoints import select
from olmo_dynamics.checkpoints.runs import Fault
from olmo_dynamics.errors import SelectionError


def find_known(evidence: Evidence) -> list[Finding]:
    """One finding a fault that is known of this repo; those of lists only where lists are audited."""
    faults = evidence.run.faults_of(evidence.source) if evidence.run else ()
    return [_finding(fault, evidence) for fault in faults if fault.kind != "list" or evidence.lists]


def _finding(fault: Fault, evidence: Evidence) -> Finding:
    names = _matched(fault, evidence) if fault.kind != "list" else ()
    what = fault.what
    if fault.kind == "missing":
        what = f"{what} ({some(fault.revisions)}{f'; {len(names)} of them are there now' if names else ''})"
    elif not names:
        what = f"{what} ({some(fault.revisions)})"
    still = fault.kind != "duplicate" or _still_equal(names, evidence)
    if not still:
        what = f"{what}; this audit no longer sees it"
    severity = Severity.NOTE
    if fault.kind == "rewritten" or (fault.kind == "duplicate" and still):
        severity = Severity.DOUBTFUL
    return Finding("known", severity, names, "", what, reference=fault.reference)


def _matched(fault: Fault, evidence: Evidence) -> tuple[str, ...]:
    """The revisions here that the fault's terms name."""
    found: list[str] = []
    for term in fault.revisions:
        try:
            found += [revision.name for revision in select(evidence.revisions, term)]
        except SelectionError:
            continue  # it is not here, or not any more
    return tuple(dict.fromkeys(found))


def _still_equal(names: tuple[str, ...], evidence: Evidence) -> bool:
    """Whether at least two of the names still hold the same weights, as far as was listed."""
    if not all(name in evidence.listings for name in names):
        return True
    hashes = [tuple(facts.id for facts in evidence.listings[name].weights.values()) for name in names]
    return len(set(hashes)) < len(hashes)
