"""Collect: for each revision stream, record, write; run again, it continues.

>>> store = append_revisions(open_source("cache/demo/run"), revisions="all:log8", out="demo.zarr")  # doctest: +SKIP
>>> compact(store)  # doctest: +SKIP

A revision is written wholly or not at all, so whatever stops a collection (Ctrl-C, a full disk, a lost network, SIGKILL)
costs at most the revision under way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Unpack

import torch

from olmo_dynamics.checkpoints import Checkpoint, Source
from olmo_dynamics.collection.back_fill import back_fill, check_names, not_continued, repair
from olmo_dynamics.collection.cost_estimate import estimate
from olmo_dynamics.collection.exclusion import exclusion_notes, partly_held, without_forward_groups
from olmo_dynamics.collection.fetch_plan import Bounds
from olmo_dynamics.collection.left_out import LeftOut, reason
from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.collection.measure import Measurer
from olmo_dynamics.collection.opening import Opener, open_checkpoint
from olmo_dynamics.collection.options import CollectKeywords, split_options
from olmo_dynamics.collection.prefetch import OpenRevision, Prefetcher, RevisionStream
from olmo_dynamics.collection.selection import missing_groups, select_revisions
from olmo_dynamics.collection.setup import CollectionSetup, Held
from olmo_dynamics.collection.throughput import Throughput
from olmo_dynamics.collection.usage import ResourceUsage, resident_bytes
from olmo_dynamics.collection.verification import TOKENS, verify
from olmo_dynamics.errors import CheckpointError, OlmoDynamicsError, OptionError, StoreBusyError, StoreError
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
    out: str | Path,
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
    with progress or ProgressBar() as listener, closing(opener):
        for note in (*source.notes, *selected.notes):
            listener.note(note)
        if selected.left_out:
            listener.note(selected.summary)
        repaired = _repaired(Path(out), limits.shard or None, selected.revisions, listener)
        setup = opener.set_up(selected.sound_first, Held(repaired) if repaired else None)
        store = _open(Path(out), setup, source, limits.shard or None)
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
            collector = Collector(opener, store, setup=setup, limits=limits, listener=listener)
            collector.measure([each for each in mine if missing[each.name]])
    return store


def _open(out: Path, setup: CollectionSetup, source: Source, part: str | None) -> Store:
    """The store, new or found to be of the same setup; groups that it lacks are added."""
    probe_arrays = {} if setup.probe is None else {
        "token_id": setup.probe.token_ids,
        "mask": setup.probe.mask,
        "domain": setup.probe.domain,
    }  # fmt: skip
    attributes = {**setup.attributes, "source": place_of(source, out)}
    if out.exists():
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


def _repaired(out: Path, part: str | None, revisions: Sequence[Revision], listener: Progress) -> Store | None:
    """The store, if it is there, with its damaged rows marked as missing."""
    if not out.exists():
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
    """Takes one revision after another out of the prefetcher, measures it and writes its row."""

    def __init__(
        self, opener: Opener, store: Store, *, setup: CollectionSetup, limits: Limits, listener: Progress
    ) -> None:
        self._opener, self._store, self._setup, self._listener = opener, store, setup, listener
        self._threads = limits.thread_count
        self._usage = ResourceUsage()
        self._resident = resident_bytes()
        self._expects = False

    def measure(self, revisions: Sequence[Revision]) -> None:
        """Measure them all; whatever keeps one of them out, the others go on.

        Raises:
            CheckpointError: some cannot be measured; all others are in the store.
            OlmoDynamicsError: the disk is full, the store is taken, or three in a row failed for no reason of their own.
        """
        left_out = LeftOut()
        with (
            Prefetcher(self._opener.open, revisions, self._opener.bounds) as prefetcher,
            Measurer(self._setup, self._threads) as measurer,
        ):
            for stream in prefetcher:
                name = stream.revision.name
                self._listener.begin(name)
                try:
                    self._expect(stream.opened, len(revisions))
                    self._measure_one(stream, measurer)
                except Exception as error:
                    left_out.add(name, error)
                    self._listener.note(f"{name} is left out: {reason(error)}")
                else:
                    left_out.succeed()
                    self._listener.finish(name)
        self._listener.conclude(self._usage.facts(self._throughput() if self._usage.is_long else None))
        left_out.raise_any(len(revisions), self._store.path)

    def _expect(self, opened: OpenRevision, revisions: int) -> None:
        """Expect all revisions to be as large as the first that can be opened."""
        if not self._expects:
            self._expects = True
            self._listener.expect(revisions=revisions, nbytes=revisions * opened.fetch_plan.nbytes)

    def _throughput(self) -> Throughput:
        return Throughput.measure(self._setup.compute_dtype, device=self._setup.options.device, threads=self._threads)

    def _measure_one(self, stream: RevisionStream, measurer: Measurer) -> None:
        opened = stream.opened
        if not self._can_be_measured(opened):
            return
        mapped, resident = self._opener.mapped, self._resident
        planned = estimate(opened, self._setup, self._opener.bounds, mapped=mapped, resident=resident)
        self._verify(stream)
        checkpoint = opened.checkpoint
        with _revision_named(checkpoint.revision.name):
            records = measurer.records(stream, self._listener.advance)
            self._store.append(
                checkpoint.revision,
                records,
                dtype=checkpoint.dtype,
                weights_sha256=stream.weights_sha256.result(),
                groups=opened.groups,
                quantities=self._setup.layout.keys,
            )
        self._usage.add(opened, planned)
        nonfinite = [record.at["tensor"] for record in records if _is_nonfinite(record)]
        if nonfinite:
            name = checkpoint.revision.name
            self._listener.note(f"{name}: {len(nonfinite)} tensors hold NaN or Inf, first {nonfinite[0]}")

    def _can_be_measured(self, opened: OpenRevision) -> bool:
        """False if all that the store lacks of a revision cannot be measured, which is told; True if there is something to do.

        Raises:
            CheckpointError: the store would have nothing of the revision.
        """
        name = opened.checkpoint.revision.name
        if not opened.groups and not self._store.recorded(name):
            raise CheckpointError("; ".join(opened.notes))
        for note in opened.notes:
            self._listener.note(note)
        return bool(opened.groups)

    def _verify(self, stream: RevisionStream) -> None:
        if self._setup.options.verify and self._setup.probe is not None and not stream.opened.excluded:
            unverified = verify(stream.opened.checkpoint, torch.tensor(self._setup.probe.token_ids[:1, :TOKENS]))
            if unverified:
                self._listener.note(unverified)


@contextmanager
def _revision_named(name: str) -> Iterator[None]:
    """Let an error in a recorder, or in what it gave, name the revision; errors of the source and the disk say enough."""
    try:
        yield
    except Exception as error:
        if type(error) in (OptionError, StoreError) or not isinstance(error, OlmoDynamicsError):
            error.add_note(f"while {name} was measured")
        raise


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
