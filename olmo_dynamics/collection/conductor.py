"""Collect: for each revision stream, record, write; run again, it continues.

>>> store = collect("allenai/OLMo-2-0425-1B", revisions="stage1:log24", out="olmo2-1b.zarr")  # doctest: +SKIP

A revision is written wholly or not at all, so whatever stops a collection (Ctrl-C, a full disk, a lost network, SIGKILL)
costs at most the revision under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Unpack

import torch

from olmo_dynamics.checkpoints import Checkpoint, Source
from olmo_dynamics.collection.account import Account
from olmo_dynamics.collection.choice import choose, done_of, lacking_groups
from olmo_dynamics.collection.costs import costs_of
from olmo_dynamics.collection.fetching import Opened, Pipeline, Visit
from olmo_dynamics.collection.itinerary import Bounds
from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.collection.measurement import Options, settle
from olmo_dynamics.collection.measuring import Measuring
from olmo_dynamics.collection.opening import Opener, open_checkpoint
from olmo_dynamics.collection.rates import Rates
from olmo_dynamics.collection.study import Study
from olmo_dynamics.collection.verification import TOKENS, verify
from olmo_dynamics.errors import CheckpointError, StoreBusyError
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.frames.run import Run
from olmo_dynamics.names import Record, Revision, Status
from olmo_dynamics.progress import Bar, Silent
from olmo_dynamics.settings import wake_on_interrupt


def collect(
    run: Run | Source | str | Path,
    *,
    revisions: str = "all",
    out: str | Path,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    progress: Silent | None = None,
    **options: Unpack[Options],
) -> RecordedStore:
    """Measure every selected revision into one store; what is already there of a revision is not measured again.

    A group that the store lacks is added to it, and measured of the revisions that are there already as well.

    Args:
        run: a hub repo id, a folder of revisions, or a `Run`.
        revisions: a selection expression such as `stage1:log24,main`.
        out: the store's folder; made if it is not there, continued if it is.
        quarantine: a file of revisions to leave out; unless given, the one that the last audit of this run left.
        include_quarantined: whether to measure them all the same.
        progress: who is told how far it is; a bar on stderr unless given (`Silent()` for none).
        **options: what is measured and how, see `Measurement`, and how much it may take, see `Limits`.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
        StoreMismatchError: the store was made from another run, probe or dtype.
        CheckpointError: some revisions contradict themselves; all others have been measured.
    """
    store = append_revisions(
        run,
        revisions=revisions,
        out=out,
        quarantine=quarantine,
        include_quarantined=include_quarantined,
        progress=progress,
        **options,
    )
    compact(store)
    return open_store(out)


def append_revisions(
    run: Run | Source | str | Path,
    *,
    revisions: str = "all",
    out: str | Path,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    progress: Silent | None = None,
    **options: Unpack[Options],
) -> RecordedStore:
    """`collect` without making series fast to read at its end, which costs as much as all that the store holds."""
    wake_on_interrupt()
    measurement, limits = settle(options)
    run = run if isinstance(run, Run) else Run(run)
    run.source.limit_rate(limits.bytes_per_second)
    choice = choose(run, revisions, quarantine=quarantine, include_quarantined=include_quarantined)
    mine = limits.of(choice.revisions)
    opener = Opener(run, measurement, Bounds.of(limits.memory_bytes))
    with progress or Bar() as listener, closing(opener):
        if choice.left_out:
            listener.note(choice.summary)
        study = opener.settle(mine, done=done_of(out, measurement.groups))
        for note in study.notes:
            listener.note(note)
        store = _open(Path(out), study, limits.shard or None)
        with store.lock(limits.shard or None):
            store.plan(choice.revisions)
            opener.groups = lacking = lacking_groups(store, study.groups, mine)
            collection = _Collection(opener, store, study=study, limits=limits, listener=listener)
            collection.measure([each for each in mine if lacking[each.name]])
    return store


def _open(out: Path, study: Study, part: str | None) -> RecordedStore:
    """The store, made for the study, or found to be of the same; groups that it lacks are added."""
    probe_arrays = {} if study.probe is None else {
        "token_id": study.probe.token_ids,
        "mask": study.probe.mask,
        "domain": study.probe.domain,
    }  # fmt: skip
    if out.exists():
        store = open_store(out, mode="a")
    else:
        store = RecordedStore.create(
            out, layout=study.layout, attributes=study.attributes, probe_arrays=probe_arrays, part=part
        )
    with store.lock(part):
        store.add_groups(study.layout, attributes=study.attributes, probe_arrays=probe_arrays)
    return store


def compact(store: RecordedStore) -> None:
    """Make series fast to read, unless other processes still write their parts: the last of them does it."""
    if not store.is_compact:
        with suppress(StoreBusyError):
            store.compact()


class _Collection:
    """Takes visit by visit out of the pipeline, and writes what was measured."""

    def __init__(self, opener: Opener, store: RecordedStore, *, study: Study, limits: Limits, listener: Silent) -> None:
        self._opener, self._store, self._study, self._listener = opener, store, study, listener
        self._threads = limits.thread_count
        self._account = Account()
        self._expects = False

    def measure(self, revisions: Sequence[Revision]) -> None:
        """Measure them all.

        Raises:
            CheckpointError: some contradict themselves; all others are in the store.
        """
        refused: dict[str, CheckpointError] = {}
        with (
            Pipeline(self._opener.open, revisions, self._opener.bounds) as pipeline,
            Measuring(self._study, self._threads) as measuring,
        ):
            for visit in pipeline:
                name = visit.revision.name
                self._listener.begin(name)
                try:
                    self._expect(visit.opened, len(revisions))
                    self._measure_one(visit, measuring)
                except CheckpointError as error:
                    refused[name] = error
                    self._listener.note(f"{name} is left out: {error}")
                else:
                    self._listener.finish(name)
        self._listener.conclude(self._account.facts(self._rates() if self._account.is_long else None))
        if refused:
            names = list(refused)
            raise CheckpointError(
                f"{len(names)} of {len(revisions)} revisions cannot be measured ({', '.join(names[:3])}"
                f"{', …' if len(names) > 3 else ''}), the others are in {self._store.path}; last reason: {refused[names[-1]]}"
            )

    def _expect(self, opened: Opened, revisions: int) -> None:
        """Take the first revision that can be opened for all."""
        if not self._expects:
            self._expects = True
            self._listener.expect(revisions=revisions, nbytes=revisions * opened.itinerary.nbytes)

    def _rates(self) -> Rates:
        return Rates.measure(self._study.compute_dtype, device=self._study.measurement.device, threads=self._threads)

    def _measure_one(self, visit: Visit, measuring: Measuring) -> None:
        opened = visit.opened
        planned = costs_of(opened, self._study, self._opener.bounds, mapped=self._opener.mapped)
        self._verify(visit)
        records = measuring.records(visit, self._listener.advance)
        checkpoint = opened.checkpoint
        self._store.append(
            checkpoint.revision,
            records,
            dtype=checkpoint.dtype,
            weights_sha256=visit.weights_sha256.result(),
            groups=opened.groups,
        )
        self._account.add(opened, planned)
        nonfinite = [record.at["tensor"] for record in records if _is_nonfinite(record)]
        if nonfinite:
            name = checkpoint.revision.name
            self._listener.note(f"{name}: {len(nonfinite)} tensors hold NaN or Inf, first {nonfinite[0]}")

    def _verify(self, visit: Visit) -> None:
        if self._study.measurement.verify and self._study.probe is not None:
            unverified = verify(visit.opened.checkpoint, torch.tensor(self._study.probe.token_ids[:1, :TOKENS]))
            if unverified:
                self._listener.note(unverified)


def _is_nonfinite(record: Record) -> bool:
    return record.quantity.key == "parameters/status" and int(record.values) == Status.NONFINITE


def measure(checkpoint: Checkpoint, study: Study, limits: Limits | None = None) -> list[Record]:
    """The records of one open checkpoint, which is closed then; nothing is written."""
    limits = limits or Limits()
    bounds = Bounds.of(limits.memory_bytes)
    opened = open_checkpoint(checkpoint, study, study.groups, bounds)
    with (
        Pipeline(lambda _: opened, [checkpoint.revision], bounds) as pipeline,
        Measuring(study, limits.thread_count) as measuring,
    ):
        [records] = [measuring.records(visit, lambda _: None) for visit in pipeline]
    return records
