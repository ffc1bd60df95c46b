"""Audits: faults of a published run, found without downloading weights.

>>> found = audit("allenai/OLMo-2-1124-7B", lists=["manifests"])  # doctest: +SKIP
>>> found.quarantine.revisions  # doctest: +SKIP
"""

from olmo_dynamics.auditing.auditor import Audit, audit
from olmo_dynamics.auditing.checks import inspect
from olmo_dynamics.auditing.findings import KINDS, Finding, Severity, some
from olmo_dynamics.auditing.quarantine import Quarantine, QuarantineEntry, find_quarantine, save_quarantine
from olmo_dynamics.auditing.recheck import recheck

__all__ = [
    "KINDS",
    "Audit",
    "Finding",
    "Quarantine",
    "QuarantineEntry",
    "Severity",
    "audit",
    "find_quarantine",
    "inspect",
    "recheck",
    "save_quarantine",
    "some",
]


def __dir__() -> list[str]:
    return sorted(__all__)
