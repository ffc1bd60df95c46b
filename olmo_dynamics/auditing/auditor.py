"""An audit: gather the evidence, run every check, write the quarantine; of a store, compare what it holds.

>>> found = audit("allenai/OLMo-2-1124-7B")  # doctest: +SKIP
>>> [finding.line for finding in found.findings if finding.severity is Severity.WRONG]  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from olmo_dynamics.auditing.audit_record import quarantine_path, source_name
from olmo_dynamics.auditing.checks import inspect, worst_first
from olmo_dynamics.auditing.evidence import Evidence, gather
from olmo_dynamics.auditing.findings import Finding, Severity
from olmo_dynamics.auditing.quarantine import Quarantine, quarantine_of, save_quarantine
from olmo_dynamics.auditing.recorded_steps import find_in_store
from olmo_dynamics.checkpoints import Source, known_run, open_source, select
from olmo_dynamics.checkpoints.catalog.official_lists import find_lists
from olmo_dynamics.errors import OlmoDynamicsError, OptionError
from olmo_dynamics.files import as_place, is_bucket
from olmo_dynamics.frames import metrics, open_store
from olmo_dynamics.frames.lineage import run_folder
from olmo_dynamics.progress import Progress
from olmo_dynamics.store import Store


@dataclass(frozen=True, slots=True)
class Audit:
    """Findings about a source or a store, worst first, and the revisions to exclude, as written to `quarantine.path`."""

    source: str
    revisions: int
    findings: tuple[Finding, ...]
    quarantine: Quarantine

    def count(self, severity: Severity) -> int:
        """The number of findings of that severity."""
        return sum(finding.severity is severity for finding in self.findings)


def audit(
    source: Source | Store | str | Path,
    *,
    lists: Sequence[str | Path] = (),
    headers: str = "",
    lists_only: bool = False,
    quarantine: str | Path | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Find faults of a published run, without downloading weights; of a store, those that its statistics of weights show.

    Args:
        source: a hub repo id, a folder of revisions, a `Source`; or a store of measurements.
        lists: official lists (CSV), or folders of them, to audit too.
        headers: a selection expression of the revisions whose safetensors headers are read: two requests and 64 KiB
            per weight file on a hub. Empty: none.
        lists_only: audit only the lists, and send no request to the source.
        quarantine: a file to write the quarantine to, besides the one in the cache that `collect` finds by itself. That of a
            store is written to this file alone.
        progress: a listener that shows the progress; none unless given.

    Raises:
        OptionError: the source is one checkpoint on a web server, or `lists_only` has no lists; a store is given with lists or
            headers, or holds no statistics of weights.
        SourceError: the source does not answer, or a file of `lists` is not a list.
        SelectionError: `headers` is invalid, or matches nothing.
    """
    if isinstance(source, Store) or (not isinstance(source, Source) and is_store(source)):
        store = source if isinstance(source, Store) else Store.open(source)
        return _audit_store(store, quarantine, others=bool(lists or headers or lists_only))
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


def is_store(path: str | Path) -> bool:
    """True if there is a store of measurements at a path, rather than a folder of revisions."""
    place = as_place(str(path)) if is_bucket(path) else Path(path).expanduser()
    return (place / "zarr.json").is_file()


def _audit_store(store: Store, quarantine: str | Path | None, *, others: bool) -> Audit:
    """The audit of a store, whose findings hold for the commits that it was measured from."""
    if others:
        raise OptionError(
            f"--lists and --headers need a repo or a folder of revisions (got the store {store.path}); "
            f"audit {store.attributes['source']} with them"
        )
    findings = worst_first(find_in_store(store, rates=lambda: _learning_rates(store)))
    states = {each.name: each.commit for each in store.revisions()}
    found = quarantine_of(store.attributes["source"], findings, states)
    path = save_quarantine(found, quarantine) if quarantine is not None else None
    return Audit(str(store.path), len(store.done), findings, replace(found, path=path))


def _learning_rates(store: Store) -> dict[int, float]:
    """The learning rate of each step of a run that this package trained, where its folder is found; else empty."""
    if len({each.line for each in store.revisions() if each.step is not None}) != 1:
        return {}
    with contextlib.suppress(OlmoDynamicsError):
        folder = run_folder(open_store(store.path))
        if folder is not None:
            curve = metrics(folder)
            return dict(curve.select("step", "learning_rate").drop_nulls().iter_rows())
    return {}


def _keep(source: Source, evidence: Evidence, findings: Sequence[Finding], path: str | Path | None) -> Quarantine:
    """Write the quarantine for `collect` to find, and to the user's file; an audit of lists alone writes none to the cache."""
    states = {name: listing.state for name, listing in evidence.listings.items()}
    found = quarantine_of(source_name(source), findings, states)
    written = None
    if evidence.listings:
        with contextlib.suppress(OptionError):  # a cache that cannot be written does not spoil the audit
            written = save_quarantine(found, quarantine_path(source))
    if path is not None:
        written = save_quarantine(found, path)
    return Quarantine(found.source, found.revisions, found.audited_at, written)
