"""Plan a collection before a weight moves: bytes, requests, memory, and seconds of each kind of work.

>>> plan(open_source("allenai/OLMo-2-0425-1B"), revisions="stage1:log24", rate=100e6)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.back_fill import back_fill, check_names, damaged, not_continued, open_as_repaired
from olmo_dynamics.collection.bandwidth import MEASURED, Bandwidth
from olmo_dynamics.collection.computing import require_device
from olmo_dynamics.collection.cost_estimate import CostEstimate, estimate, together, without_tokenizer
from olmo_dynamics.collection.exclusion import exclusion_notes, partly_held, without_forward_groups
from olmo_dynamics.collection.fetch_plan import Bounds
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.options import CollectKeywords, CollectOptions, split_options
from olmo_dynamics.collection.prefetch import OpenRevision
from olmo_dynamics.collection.selection import missing_groups, select_revisions
from olmo_dynamics.collection.setup import CollectionSetup, Held
from olmo_dynamics.collection.throughput import Throughput
from olmo_dynamics.collection.usage import resident_bytes
from olmo_dynamics.files import Place, as_place, is_there
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.amounts import at_least, human_bytes, human_seconds
from olmo_dynamics.quantities.as_html import as_text, shown
from olmo_dynamics.settings import wake_on_interrupt
from olmo_dynamics.store import Store


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of what is still to do of a collection; each revision is assumed to be as large as the first of them."""

    source: str
    revisions: tuple[str, ...]
    done: tuple[str, ...]
    compute_dtype: str
    costs: CostEstimate
    throughput: Throughput
    bandwidth: Bandwidth
    notes: tuple[str, ...] = ()  # as the collection would print them
    left_out: tuple[str, ...] = ()  # selected, but in quarantine
    tokens: Mapping[str, int] = field(
        default_factory=dict
    )  # that a revision reads, padding included: of the probe, of a group

    @property
    def to_do(self) -> tuple[str, ...]:
        """The revisions not yet in the store."""
        done = set(self.done)
        return tuple(name for name in self.revisions if name not in done)

    @property
    def nbytes(self) -> int:
        """Bytes to read: the weights, an optimiser's state if it is read, and the headers, configs and tokenizer."""
        return self.costs.nbytes

    @property
    def requests(self) -> int:
        """About how many range requests; none for local files."""
        return self.costs.requests

    @property
    def peak_bytes(self) -> int:
        """About the most memory that the process takes, from what it takes now; parts of mapped files in use included."""
        return self.costs.peak_bytes

    @property
    def rate(self) -> float:
        """Bytes per second that come."""
        return self.bandwidth.rate

    @property
    def rate_from(self) -> str:
        """The origin of the rate: `stated`, `measured`, or `assumed`."""
        return self.bandwidth.origin

    @property
    def download_seconds(self) -> float:
        """Time to move the bytes at the rate."""
        return self.nbytes / self.rate

    @property
    def statistics_seconds(self) -> float:
        """Time for the parameter statistics."""
        return self.costs.surveyed_bytes / self.throughput.surveyed

    @property
    def beside_seconds(self) -> dict[str, float]:
        """Time of recorders of weights beside the statistics, by group: about that of `sketches` and `spectra`."""
        return {group: cost / self.throughput.surveyed for group, cost in self.costs.beside.items()}

    @property
    def forward_seconds(self) -> float:
        """Time for the matrix products of the forward pass; the rest of it takes about half as much again."""
        return self.costs.flops / self.throughput.flops

    @property
    def seconds(self) -> float:
        """The larger of moving and computing, which run side by side."""
        weights = self.statistics_seconds + sum(self.beside_seconds.values())
        return max(self.download_seconds, weights + self.forward_seconds)

    @property
    def facts(self) -> dict[str, str]:
        """The plan as a table for readers: what is to do, what it reads, and how long that takes."""
        beside = "".join(f"{human_seconds(each)} of {group}, " for group, each in self.beside_seconds.items())
        per_revision = self.nbytes / max(1, len(self.to_do))
        return {
            "source": self.source,
            "revisions": f"{len(self.to_do)} to measure, {len(self.done)} already in the store",
            "dtype": f"{self.compute_dtype} (of the forward pass)",
            "bytes": f"{human_bytes(self.nbytes)} ({human_bytes(per_revision)} per revision)",
            "requests": str(self.requests),
            "tokens": ", ".join(f"{count:,} of {probe}" for probe, count in self.tokens.items()) or "none",
            "memory": f"about {human_bytes(self.peak_bytes)}",
            "download": f"{human_seconds(self.download_seconds)} at {human_bytes(self.rate)}/s ({self.rate_from})",
            "compute": f"{human_seconds(self.statistics_seconds)} of statistics, {beside}"
            f"{at_least(self.forward_seconds)} of forward pass",
            "time": f"{human_seconds(self.seconds)}: the larger of both, which run side by side",
        }

    def __str__(self) -> str:
        """The table as lines of text."""
        return as_text(f"Plan of {self.source}", self._told)

    def _repr_html_(self) -> str:
        """The table as HTML."""
        return shown(f"Plan of {self.source}", self._told)

    @property
    def _told(self) -> dict[str, str]:
        notes = {"quarantined": ", ".join(self.left_out), "note": "; ".join(self.notes)}
        return {**self.facts, **{name: text for name, text in notes.items() if text}}


def plan(
    source: Source,
    *,
    revisions: str | Collection[str] = "all",
    out: str | Place | None = None,
    rate: float | str | None = None,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    **options: Unpack[CollectKeywords],
) -> Plan:
    """Estimate the cost of `append_revisions` with the same arguments; `olmo_dynamics.plan` tells the options.

    Raises:
        OlmoDynamicsError: those of `olmo_dynamics.plan`.
    """
    bandwidth = Bandwidth.of(None if rate == MEASURED else rate)
    wake_on_interrupt()
    check_names(out, options)
    chosen, limits = split_options(options)
    require_device(chosen.device)
    selected = select_revisions(source, revisions, quarantine=quarantine, include_quarantined=include_quarantined)
    mine = limits.of(selected.revisions)
    opener = Opener(source, chosen, Bounds.of(limits.memory_bytes))
    with closing(opener):
        store = open_as_repaired(out) if out and is_there(as_place(out)) else None
        setup = opener.set_up(selected.sound_first, Held(store) if store else None)
        missing = without_forward_groups(_missing(store, setup, mine), setup, partly_held(store, selected.partly))
        notes = (*exclusion_notes(store, selected.partly, mine), *_notes(store, setup, opener), *_engine_notes(chosen))
        opened = {groups: opener.first(groups) for groups in set(missing.values()) if groups}
        throughput = Throughput.measure(setup.compute_dtype, device=chosen.device, threads=limits.thread_count)
        costs = _costs(missing, opened, setup, opener, limits.thread_count)
        if rate == MEASURED and opened:
            source.limit_rate(limits.bytes_per_second)
            bandwidth = Bandwidth.measure(next(iter(opened.values())).checkpoint)
    return Plan(
        source=source.name,
        revisions=tuple(each.name for each in mine),
        done=tuple(name for name, groups in missing.items() if not groups),
        compute_dtype=setup.attributes["compute_dtype"],
        costs=costs,
        throughput=throughput,
        bandwidth=bandwidth.limited(limits.bytes_per_second),
        notes=(*source.notes, *selected.notes, *notes),
        left_out=tuple(selected.left_out),
        tokens=setup.token_counts({group for groups in missing.values() for group in groups}),
    )


def _costs(
    missing: Mapping[str, tuple[str, ...]],
    opened: Mapping[tuple[str, ...], OpenRevision],
    setup: CollectionSetup,
    opener: Opener,
    threads: int,
) -> CostEstimate:
    """The costs of all revisions that lack some groups, each as large as the first; the tokenizer is read once."""
    resident = resident_bytes()
    to_do = [groups for groups in missing.values() if groups]
    first = {
        groups: estimate(
            each, setup, opener.bounds, mapped=opener.mapped, threads=threads, resident=resident, revisions=len(to_do)
        )
        for groups, each in opened.items()
    }
    later = {groups: without_tokenizer(first[groups], each, setup) for groups, each in opened.items()}
    return together([first[groups] if place == 0 else later[groups] for place, groups in enumerate(to_do)])


def _notes(store: Store | None, setup: CollectionSetup, opener: Opener) -> tuple[str, ...]:
    """The setup's notes, and what the store lacks unless it is to be back-filled."""
    if store is None:
        return setup.notes
    lacking = () if setup.options.back_fill else back_fill(store, setup, opener)
    return (*setup.notes, *damaged(store), *lacking, *not_continued(store, setup))


def _engine_notes(options: CollectOptions) -> tuple[str, ...]:
    """A line on what the plan leaves out, where several workers would share the work."""
    return () if options.engine == "local" else ("the time is that of one worker; several share the revisions",)


def _missing(store: Store | None, setup: CollectionSetup, revisions: Sequence[Revision]) -> dict[str, tuple[str, ...]]:
    """The groups to measure of each revision; those with a quantity that is to be back-filled as well."""
    missing = missing_groups(store, setup.layout, revisions)
    if store is None or not setup.options.back_fill:
        return missing
    again = store.lacking_quantities(setup.layout)
    return {
        name: tuple(group for group in setup.groups if group in groups or group in again)
        for name, groups in missing.items()
    }
