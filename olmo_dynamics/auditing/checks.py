"""Every check of a source, and the findings of all of them.

>>> from olmo_dynamics.auditing.evidence import Evidence
>>> inspect(Evidence("a/run", ()))
()
"""

from __future__ import annotations

from collections.abc import Sequence

from olmo_dynamics.auditing.contents import find_drift, find_incomplete, find_moves
from olmo_dynamics.auditing.duplicates import find_duplicates
from olmo_dynamics.auditing.evidence import Evidence
from olmo_dynamics.auditing.findings import ORDER, Finding
from olmo_dynamics.auditing.known_faults import find_known
from olmo_dynamics.auditing.list_faults import find_list_faults
from olmo_dynamics.auditing.name_checks import find_cadence_faults, find_label_faults, find_name_faults
from olmo_dynamics.auditing.settings_drift import find_config_drift, find_header_drift

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


def inspect(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings of every check, worst first."""
    return worst_first([finding for check in CHECKS for finding in check(evidence)])


def worst_first(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings, worst first."""
    return tuple(sorted(found, key=lambda finding: ORDER.index(finding.severity)))
