"""Revisions of which some tensors are excluded: the sound ones are measured, the others get the status `excluded`.

Nothing that needs the whole model is measured of such a revision: no forward pass, and no group whose numbers are not each of one
tensor.

>>> opened = open_checkpoint(checkpoint, setup, sound_groups(setup, groups), bounds, entry)  # doctest: +SKIP
>>> records += exclusion_records(setup, opened.groups, opened.excluded)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from olmo_dynamics.auditing.findings import some
from olmo_dynamics.auditing.quarantine import QuarantineEntry
from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.errors import StoreDamagedError, counted
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import STATUS, Reads, Record, Status
from olmo_dynamics.store import Store

OF_TENSORS = ("tensor", "embedding")
"""Axes whose labels are names of tensors."""


def excluded_tensors(checkpoint: Checkpoint, entry: QuarantineEntry | None) -> frozenset[str]:
    """The tensors of a checkpoint that an entry excludes, by the files that hold their bytes or by name; reads headers only."""
    if entry is None:
        return frozenset()
    files = {name: {span.file for span in checkpoint.stored_spans([info])} for name, info in checkpoint.tensors.items()}
    return frozenset(name for name in files if entry.excludes(name, files[name]))


def sound_groups(setup: CollectionSetup, groups: Iterable[str]) -> tuple[str, ...]:
    """The groups each of whose numbers is of one tensor, so that the sound ones can be measured."""
    alone = {
        group.name
        for recorder in setup.recorders
        for group in recorder.groups
        if recorder.reads in (Reads.WEIGHTS, Reads.OPTIMIZER) and group.axes[:1] and group.axes[0] in OF_TENSORS
    }
    return tuple(name for name in groups if name in alone)


def without_forward_groups(
    missing: Mapping[str, tuple[str, ...]], setup: CollectionSetup, partly: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """The groups to measure by revision; of those that are excluded in part, only `sound_groups`."""
    return {name: sound_groups(setup, groups) if name in partly else groups for name, groups in missing.items()}


def exclusion_records(setup: CollectionSetup, groups: Collection[str], excluded: Collection[str]) -> Iterator[Record]:
    """The status `excluded` of each excluded tensor in each group of weights, or of their state, that has a place for it."""
    readers = (recorder for reads in (Reads.WEIGHTS, Reads.OPTIMIZER) for recorder in setup.recorders_of(groups, reads))
    for recorder in readers:
        names = {info.name for info in setup.tensors if info.name in excluded and recorder.selects(info)}
        for group in (each.name for each in recorder.groups if each.name in groups):
            status = setup.layout.groups[group][STATUS]
            axis, *others = status.axes
            values = np.full([len(setup.layout.axes[name]) for name in others], Status.EXCLUDED, dtype=np.uint8)
            for label in setup.layout.axes[axis].labels.tolist() if names else ():
                if label in names:
                    yield Record(status, values, {axis: label})


def partly_held(store: Store | None, entries: Mapping[str, QuarantineEntry]) -> frozenset[str]:
    """The revisions that are excluded in part: by the quarantine, or in the store, which keeps to what it began with."""
    return frozenset(entries) | _excluded_in(store)


def exclusion_notes(
    store: Store | None, entries: Mapping[str, QuarantineEntry], revisions: Iterable[Revision]
) -> Iterator[str]:
    """Lines on the revisions that are measured in part, and on those of which a store will never hold more."""
    names = [each.name for each in revisions]
    partly = [name for name in names if name in entries]
    if partly:
        parts = dict.fromkeys(part for name in partly for part in (*entries[name].files, *entries[name].tensors))
        yield (
            f"{counted(len(partly), 'revision')} measured in part ({some(partly, 5)}), without forward pass: the published "
            f"bytes of {some(list(parts))} are not theirs; --include-quarantined measures them whole"
        )
    held = _excluded_in(store)
    for name in names:
        if store is not None and name not in entries and name in held:
            yield (
                f"{name} stays without forward pass and some tensors, as {store.path} holds it; collect it into another store"
            )


def _excluded_in(store: Store | None) -> frozenset[str]:
    """The revisions that the store holds in part; of a damaged one none, until a collection has repaired it."""
    try:
        return frozenset(store.excluded() if store else ())
    except StoreDamagedError:
        return frozenset()
