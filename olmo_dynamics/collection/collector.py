"""Collect: for each revision stream, record, write; run again, it continues.

>>> store = append_revisions(open_source("cache/demo/run"), revisions="all:log8", out="demo.zarr")  # doctest: +SKIP
>>> compact(store)  # doctest: +SKIP

A revision is written wholly or not at all, so whatever stops a collection (Ctrl-C, a full disk, a lost network, SIGKILL)
costs at most the revision under way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Unpack

from olmo_dynamics.checkpoints import Checkpoint, Source
from olmo_dynamics.collection.back_fill import back_fill, check_names, not_continued, repair
from olmo_dynamics.collection.engines import Engine, MeasuredRevision, Outcome, open_engine
from olmo_dynamics.collection.engines.outcome import revision_named
from olmo_dynamics.collection.exclusion import exclusion_notes, partly_held, without_forward_groups
from olmo_dynamics.collection.fetch_plan import Bounds
from olmo_dynamics.collection.left_out import LeftOut, reason
from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.collection.measure import Measurer
from olmo_dynamics.collection.opening import Opener, open_checkpoint
from olmo_dynamics.collection.options import CollectKeywords, split_options
from olmo_dynamics.collection.prefetch import Prefetcher
from olmo_dynamics.collection.selection import missing_groups, select_revisions
from olmo_dynamics.collection.setup import CollectionSetup, Held
from olmo_dynamics.collection.throughput import Throughput
from olmo_dynamics.collection.usage import ResourceUsage
from olmo_dynamics.errors import CheckpointError, StoreBusyError
from olmo_dynamics.files import Place, as_place, is_there
from olmo_dynamics.names import Revision
from olmo_dynamics.progress import Progress, ProgressBar
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.settings import wake_on_interrupt
from olmo_dynamics.store import Store
from olmo_dynamics.store.identity import moved_branches, place_of, require_same_run, update_place


def append_revisions(
    source: Source,
    *,
    revisions: str | Collection[str] = "all",
    out: str | Place,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    progress: Progress | None = None,
    **options: Unpack[CollectKeywords],
) -> Store:
    """Measure every selected revision into one store, which is left to be compacted; `olmo_dynamics.collect` tells the options.

    Raises:
        OlmoDynamicsError: those of `olmo_dynamics.collect`.
    """
    wake_on_interrupt()
    check_names(out, options)
    chosen, limits = split_options(options)
    source.limit_rate(limits.bytes_per_second)
    selected = select_revisions(source, revisions, quarantine=quarantine, include_quarantined=include_quarantined)
    mine = limits.of(selected.revisions)
    opener = Opener(source, chosen, Bounds.of(limits.memory_bytes))
    with (
        open_engine(source, chosen, limits) as engine,
        progress or ProgressBar() as listener,
        closing(opener),
    ):
        for note in (*engine.notes, *source.notes, *selected.notes):
            listener.note(note)
        if selected.left_out:
            listener.note(selected.summary)
        repaired = _repaired(as_place(out), limits.shard or None, selected.revisions, listener)
        setup = opener.set_up(selected.sound_first, Held(repaired) if repaired else None)
        store = _open(as_place(out), setup, source, limits.shard or None)
        with store.lock(limits.shard or None):
            for note in (
                *setup.notes,
                *exclusion_notes(store, selected.partly, mine),
                *back_fill(store, setup, opener),
                *not_continued(store, setup),
                *moved_branches(store, mine),
            ):
                listener.note(note)
            store.plan(selected.revisions)
            missing = missing_groups(store, setup.layout, mine)
            missing = without_forward_groups(missing, setup, partly_held(store, selected.partly))
            opener.groups, opener.partly = missing, selected.partly
            Collector(engine, opener, store, listener).measure([each for each in mine if missing[each.name]])
    return store


def _open(out: Place, setup: CollectionSetup, source: Source, part: str | None) -> Store:
    """The store, new or found to be of the same setup; groups that it lacks are added."""
    probe_arrays = {} if setup.probe is None else {
        "token_id": setup.probe.token_ids,
        "mask": setup.probe.mask,
        "domain": setup.probe.domain,
    }  # fmt: skip
    attributes = {**setup.attributes, "source": place_of(source, out)}
    if is_there(out):
        store = Store.open(out, mode="a")
        with store.lock(part):
            store.restore_labels(setup.layout, probe_arrays)
        require_same_run(store, source)
    else:
        store = Store.create(out, layout=setup.layout, attributes=attributes, probe_arrays=probe_arrays, part=part)
    with store.lock(part):
        update_place(store, source)
        attributes["source"] = store.attributes["source"]
        store.add_groups(setup.layout, attributes=attributes, probe_arrays=probe_arrays)
    return store


def _repaired(out: Place, part: str | None, revisions: Sequence[Revision], listener: Progress) -> Store | None:
    """The store, if it is there, with its damaged rows marked as missing."""
    if not is_there(out):
        return None
    store = Store.open(out, mode="a")
    with store.lock(part):
        for note in repair(store, revisions):
            listener.note(note)
    return store


def compact(store: Store) -> None:
    """Make series fast to read, unless other processes still write their parts: the last of them does it."""
    if not store.is_compact:
        with suppress(StoreBusyError):
            store.compact(keep_layout=True)


class Collector:
    """Writes one row after another, as an engine gives the outcomes of revisions."""

    def __init__(self, engine: Engine, opener: Opener, store: Store, listener: Progress) -> None:
        self._engine, self._opener, self._store, self._listener = engine, opener, store, listener
        self._usage = ResourceUsage()

    def measure(self, revisions: Sequence[Revision]) -> None:
        """Measure them all; whatever keeps one of them out, the others go on.

        Raises:
            CheckpointError: some cannot be measured; all others are in the store.
            OlmoDynamicsError: the disk is full, the store is taken, or three in a row failed for no reason of their own.
        """
        left_out = LeftOut()
        with closing(self._engine.outcomes(self._opener, revisions, self._listener)) as outcomes:
            for outcome in outcomes:
                try:
                    self._take(outcome)
                except Exception as error:
                    left_out.add(outcome.name, error)
                    self._listener.note(f"{outcome.name} is left out: {reason(error)}")
                else:
                    left_out.succeed()
                    self._listener.finish(outcome.name)
                del outcome  # its records, while the next revision is measured
        self._listener.conclude(self._usage.facts(self._throughput() if self._usage.is_long else None))
        left_out.raise_any(len(revisions), str(self._store.path))

    def _throughput(self) -> Throughput | None:
        return self._engine.throughput(self._opener.setup)

    def _take(self, outcome: Outcome) -> None:
        """Write the row of a revision, if there is something to write.

        Raises:
            CheckpointError: the store would have nothing of the revision.
            Exception: whatever kept the revision out.
        """
        name, measured = outcome.name, outcome.measured
        if measured is None and outcome.error is None and not self._store.recorded(name):
            raise CheckpointError("; ".join(outcome.notes))
        for note in outcome.notes:
            self._listener.note(note)
        if outcome.error is not None:
            raise outcome.error
        if measured is not None:
            self._append(name, measured)

    def _append(self, name: str, measured: MeasuredRevision) -> None:
        with revision_named(name):
            self._store.append(
                measured.revision,
                measured.records,
                dtype=measured.dtype,
                weights_sha256=measured.weights_sha256,
                groups=measured.groups,
                quantities=self._opener.setup.layout.keys,
            )
        self._usage.add(measured.usage)
        nonfinite = [record.at["tensor"] for record in measured.records if _is_nonfinite(record)]
        if nonfinite:
            self._listener.note(f"{name}: {len(nonfinite)} tensors hold NaN or Inf, first {nonfinite[0]}")


def _is_nonfinite(record: Record) -> bool:
    return record.quantity.key == "parameters/status" and int(record.values) == Status.NONFINITE


def measure(checkpoint: Checkpoint, setup: CollectionSetup, limits: Limits | None = None) -> list[Record]:
    """The records of one open checkpoint, which is closed then; nothing is written."""
    limits = limits or Limits()
    bounds = Bounds.of(limits.memory_bytes)
    opened = open_checkpoint(checkpoint, setup, setup.groups, bounds)
    with (
        Prefetcher(lambda _: opened, [checkpoint.revision], bounds) as prefetcher,
        Measurer(setup, limits.thread_count) as measurer,
    ):
        [records] = [measurer.records(stream, lambda _: None) for stream in prefetcher]
    return records
