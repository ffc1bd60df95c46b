"""An audit: gather the evidence, run every check, write the quarantine.

>>> found = audit("allenai/OLMo-2-1124-7B")  # doctest: +SKIP
>>> [finding.line for finding in found.findings if finding.severity is Severity.WRONG]  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from olmo_dynamics.auditing.audit_record import quarantine_path
from olmo_dynamics.auditing.contents import find_drift, find_duplicates, find_incomplete, find_moves
from olmo_dynamics.auditing.evidence import Evidence, gather
from olmo_dynamics.auditing.findings import ORDER, Finding, Severity
from olmo_dynamics.auditing.known_faults import find_known
from olmo_dynamics.auditing.list_faults import find_list_faults
from olmo_dynamics.auditing.name_checks import find_cadence_faults, find_label_faults, find_name_faults
from olmo_dynamics.auditing.quarantine import Quarantine, quarantine_of, save_quarantine
from olmo_dynamics.auditing.settings_drift import find_config_drift, find_header_drift
from olmo_dynamics.checkpoints import Source, known_run, open_source, select
from olmo_dynamics.checkpoints.catalog.official_lists import find_lists
from olmo_dynamics.errors import OptionError
from olmo_dynamics.progress import Progress

CHECKS = (
    find_duplicates,
    find_incomplete,
    find_drift,
    find_config_drift,
    find_header_drift,
    find_cadence_faults,
    find_label_faults,
    find_name_faults,
    find_moves,
    find_list_faults,
    find_known,
)
"""Every check: evidence in, findings out."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Findings about a source, worst first, and the revisions to exclude, which were written to `quarantine.path`."""

    source: str
    revisions: int
    findings: tuple[Finding, ...]
    quarantine: Quarantine

    def count(self, severity: Severity) -> int:
        """The number of findings of that severity."""
        return sum(finding.severity is severity for finding in self.findings)


def audit(
    source: Source | str | Path,
    *,
    lists: Sequence[str | Path] = (),
    headers: str = "",
    lists_only: bool = False,
    quarantine: str | Path | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Find faults of a published run, without downloading weights.

    Args:
        source: a hub repo id, a folder of revisions, or a `Source`.
        lists: official lists (CSV), or folders of them, to audit too.
        headers: a selection expression of the revisions whose safetensors headers are read: two requests and 64 KiB
            per weight file on a hub. Empty: none.
        lists_only: audit only the lists, and send no request to the source.
        quarantine: a file to write the quarantine to, besides the one in the cache that `collect` finds by itself.
        progress: a listener that shows the progress; none unless given.

    Raises:
        OptionError: the source is one checkpoint on a web server, or `lists_only` has no lists.
        SourceError: the source does not answer, or a file of `lists` is not a list.
        SelectionError: `headers` is invalid, or matches nothing.
    """
    opened = source if isinstance(source, Source) else open_source(source)
    if opened.kind == "web" and not lists_only:
        raise OptionError(f"{opened.name} is one checkpoint on a web server; audit a hub repo or a folder of revisions")
    if lists_only and not lists:
        raise OptionError("--lists-only needs lists: give --lists FILE.csv, or a folder of lists")
    run = known_run(opened.name)
    read = tuple(find_lists(lists, opened.name, run))
    if lists_only:
        evidence = Evidence(opened.name, (), run, lists=read)
    else:
        chosen = [each.name for each in select(opened.revisions(refresh=True), headers)] if headers else []
        evidence = gather(opened, headers=chosen, lists=read, listener=progress)
    findings = inspect(evidence)
    return Audit(opened.name, len(evidence.revisions), findings, _keep(opened, evidence, findings, quarantine))


def inspect(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings of every check, worst first."""
    found = [finding for check in CHECKS for finding in check(evidence)]
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.severity)))


def _keep(source: Source, evidence: Evidence, findings: Sequence[Finding], path: str | Path | None) -> Quarantine:
    """Write the quarantine for `collect` to find, and to the user's file; an audit of lists alone writes none to the cache."""
    states = {name: listing.state for name, listing in evidence.listings.items()}
    found = quarantine_of(source, findings, states)
    written = None
    if evidence.listings:
        with contextlib.suppress(OptionError):  # a cache that cannot be written does not spoil the audit
            written = save_quarantine(found, quarantine_path(source))
    if path is not None:
        written = save_quarantine(found, path)
    return Quarantine(found.source, found.revisions, found.audited_at, written)
