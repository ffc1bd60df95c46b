"""Collect: for each revision stream, record, write; run again, it continues.

>>> store = collect("allenai/OLMo-2-0425-1B", revisions="stage1:log24", out="olmo2-1b.zarr")  # doctest: +SKIP

A revision is written wholly or not at all, so whatever stops a collection (Ctrl-C, a full disk, a lost network, SIGKILL)
costs at most the revision under way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import torch

from olmo_dynamics.checkpoints import Checkpoint, Source
from olmo_dynamics.collection.choice import choose
from olmo_dynamics.collection.measurement import Measurement, Options
from olmo_dynamics.collection.planner import needed_tensors
from olmo_dynamics.collection.study import Study, describe_probe, prepare, read_probe
from olmo_dynamics.collection.verification import TOKENS, verify
from olmo_dynamics.collection.walk import measure
from olmo_dynamics.errors import CheckpointError, StoreMismatchError
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.frames.run import Run
from olmo_dynamics.names import Record, Revision, Status
from olmo_dynamics.progress import Bar, Silent


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
    """Measure every selected revision into one store; a revision already there is not measured again.

    Args:
        run: a hub repo id, a folder of revisions, or a `Run`.
        revisions: a selection expression such as `stage1:log24,main`.
        out: the store's folder; made if it is not there, continued if it is.
        quarantine: a file of revisions to leave out; unless given, the one that the last audit of this run left.
        include_quarantined: whether to measure them all the same.
        progress: who is told how far it is; a bar on stderr unless given (`Silent()` for none).
        **options: what is measured and how, see `Measurement`.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
        StoreMismatchError: the store was made from another run, probe or dtype.
        CheckpointError: some revisions contradict themselves; all others have been measured.
    """
    measurement = Measurement(**options)
    run = run if isinstance(run, Run) else Run(run)
    choice = choose(run, revisions, quarantine=quarantine, include_quarantined=include_quarantined)
    chosen = choice.revisions
    with progress or Bar() as listener:
        if choice.left_out:
            listener.note(choice.summary)
        store, study = _open(run, chosen, Path(out), measurement=measurement, listener=listener)
        with store.lock():
            store.plan(chosen)
            missing = [each for each in chosen if each.name not in store.done]
            _collect_missing(run, missing, store=store, study=study, listener=listener)
    return open_store(out)


def _open(
    run: Run, chosen: Sequence[Revision], out: Path, *, measurement: Measurement, listener: Silent
) -> tuple[RecordedStore, Study]:
    """The store, made from the first whole revision's config and probe, or found to have been made from the same."""
    study = _prepare(run, chosen, measurement)
    for note in study.notes:
        listener.note(note)
    if out.exists():
        store = open_store(out, mode="a")
        store.check_same(study.layout, study.attributes)
        return store, study
    probe_arrays = {} if study.probe is None else {
        "token_id": study.probe.token_ids,
        "mask": study.probe.mask,
        "domain": study.probe.domain,
    }  # fmt: skip
    store = RecordedStore.create(out, layout=study.layout, attributes=study.attributes, probe_arrays=probe_arrays)
    return store, study


def _prepare(run: Run, chosen: Sequence[Revision], measurement: Measurement) -> Study:
    """The study of the first revision that does not contradict itself; the first error where all of them do."""
    refused: CheckpointError | None = None
    for revision in chosen:
        try:
            with run.open(revision) as checkpoint:
                return prepare(checkpoint, measurement, source=run.name)
        except CheckpointError as error:
            refused = refused or error
    raise refused or CheckpointError(f"{run.name}: no revision was chosen; select at least one")


def _collect_missing(
    run: Run, missing: Sequence[Revision], *, store: RecordedStore, study: Study, listener: Silent
) -> None:
    refused: list[str] = []
    for revision in missing:
        listener.begin(revision.name)
        try:
            with run.open(revision) as checkpoint:
                if revision is missing[0]:
                    needed = needed_tensors(checkpoint, study.measurement)
                    listener.expect(revisions=len(missing), nbytes=len(missing) * sum(info.nbytes for info in needed))
                _collect_one(checkpoint, store=store, study=study, listener=listener)
        except CheckpointError as error:
            refused.append(revision.name)
            listener.note(f"{revision.name} is left out: {error}")
            reason = error
            continue
        listener.finish(revision.name)
    if refused:
        raise CheckpointError(
            f"{len(refused)} of {len(missing)} revisions cannot be measured ({', '.join(refused[:3])}"
            f"{', …' if len(refused) > 3 else ''}), the others are in {store.path}; last reason: {reason}"
        )


def _collect_one(checkpoint: Checkpoint, *, store: RecordedStore, study: Study, listener: Silent) -> None:
    _check_same_probe(checkpoint, study)
    if study.measurement.verify and study.probe is not None:
        unverified = verify(checkpoint, torch.tensor(study.probe.token_ids[:1, :TOKENS]))
        if unverified:
            listener.note(unverified)
    records = measure(checkpoint, study, listener.advance)
    store.append(
        checkpoint.revision,
        records,
        dtype=checkpoint.dtype,
        weights_sha256=checkpoint.weights_sha256(),
    )
    nonfinite = [record.at["tensor"] for record in records if _is_nonfinite(record)]
    if nonfinite:
        listener.note(f"{checkpoint.revision.name}: {len(nonfinite)} tensors hold NaN or Inf, first {nonfinite[0]}")


def _check_same_probe(checkpoint: Checkpoint, study: Study) -> None:
    """A revision whose tokenizer reads the probe text otherwise is not comparable with the others."""
    if study.probe is None or study.measurement.tokens is not None:
        return
    expected = study.attributes["probe"]
    if hashlib.sha256(checkpoint.read_file("tokenizer.json")).hexdigest() == expected["tokenizer_sha256"]:
        return
    probe = describe_probe(read_probe(checkpoint, study.measurement, study.config))
    if probe["sha256"] != expected["sha256"]:
        raise StoreMismatchError(
            f"{checkpoint.revision.name}'s tokenizer turns the probe text into other tokens (sha256 {probe['sha256'][:12]}) "
            f"than the store holds ({expected['sha256'][:12]}); collect it into a store of its own"
        )


def _is_nonfinite(record: Record) -> bool:
    return record.quantity.key == "parameters/status" and int(record.values) == Status.NONFINITE
