"""A store's files, verified one by one: every checksum, every length, every file that must be there.

>>> check(Path("run.zarr")).damages  # doctest: +SKIP
(Damage(array='loss/cross_entropy', rows=(3,), reason='the checksum does not match', revisions=('step1000',)),)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from olmo_dynamics.files import Place, fetch_all, files_under, forget, mapped
from olmo_dynamics.store import row_files
from olmo_dynamics.store.appending import growing
from olmo_dynamics.store.checksums import is_intact
from olmo_dynamics.store.metadata import in_force, load_document, read_fixed, read_names
from olmo_dynamics.store.row_files import DamagedRowsError
from olmo_dynamics.store.series import check_shard, shard_path
from olmo_dynamics.store.zarr_format import (
    CHECKED_LAYOUT,
    CHUNK_ROWS,
    DOCUMENT,
    ArraySpec,
    array_spec,
    chunk_path,
    is_series,
    read_json,
)

SERIES = "series of "
"""The beginning of `Damage.array` where an array's shards are damaged, and not its log."""

NODE = f"its {DOCUMENT} is missing or does not have its checksum"
FOLDER = "its folder is missing"


@dataclass(frozen=True, slots=True)
class Damage:
    """Damage of one array: some of its rows, or, if it names none, its labels, its shards or its `zarr.json`.

    `revisions` names the rows.
    """

    array: str
    rows: tuple[int, ...]
    reason: str
    revisions: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" of {', '.join(self.revisions)}" if self.revisions else ""
        return f"{self.array}{of}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of a check: the damages, and the numbers of files with and without a checksum."""

    damages: tuple[Damage, ...]
    verified: int
    unverified: int = 0


def check(store: Place) -> Check:
    """Verify every file of a store; those of layout 2 have no checksums, and are counted only.

    Raises:
        StoreError: there is no store, or it is not one of ours.
        StoreDamagedError: its own `zarr.json` is damaged, which tells what the store holds.
    """
    forget(store)
    whole = load_document(store)
    if whole["attributes"]["layout_version"] < CHECKED_LAYOUT:
        return Check((), 0, len(files_under(store)))
    fetch_all(store)
    document = in_force(store, whole)
    nodes = document["consolidated_metadata"]["metadata"]
    absent = [path for path in whole["consolidated_metadata"]["metadata"] if path not in nodes]
    found = [Damage(path, (), FOLDER) for path in absent]
    found += _damages(store, nodes)
    try:
        names = read_names(store, nodes)
    except DamagedRowsError:
        names = np.array([], dtype=np.str_)
    named = [replace(each, revisions=_revisions(each.rows, names)) for each in found]
    return Check(tuple(named), len(files_under(store)))


def _revisions(rows: tuple[int, ...], names: np.ndarray) -> tuple[str, ...]:
    """The names of rows; of one that is not known, its number."""
    return tuple(str(names[row]) if row < len(names) else f"row {row}" for row in rows)


def _damages(store: Place, nodes: Mapping[str, Any]) -> Iterator[Damage]:
    for path, node in nodes.items():
        held = read_json(store / path / DOCUMENT)
        if not isinstance(held, dict) or not isinstance(held.get("attributes"), dict) or not is_intact(held):
            yield Damage(path, (), NODE)
        if node["node_type"] == "array":
            spec = array_spec(path, node)
            yield from _of_rows(store, spec) if spec.grows else _of_labels(store, spec)
    for path, spec in growing(nodes).items():
        yield from _of_series(store, spec, must=is_series(nodes[path]))


def _of_labels(store: Place, spec: ArraySpec) -> Iterator[Damage]:
    try:
        read_fixed(store, spec)
    except DamagedRowsError as error:
        yield Damage(spec.path, (), error.reason)


def _of_rows(store: Place, spec: ArraySpec) -> Iterator[Damage]:
    """The damages of an array along revision; one for all rows that have the same reason."""
    reasons: dict[str, list[int]] = {}
    for torn, whole_file in mapped(store, partial(_of_file, store, spec), list(_numbers(store, spec))):
        if whole_file:
            reasons.setdefault(whole_file, [])
        for row, reason in torn.items():
            reasons.setdefault(reason, []).append(row)
    for reason, damaged in reasons.items():
        yield Damage(spec.path, tuple(damaged), reason)


def _numbers(store: Place, spec: ArraySpec) -> Iterator[int]:
    """The numbers of the files that an array must have, or has beyond them."""
    number = 0
    while number * spec.chunks[0] < max(1, spec.shape[0]) or chunk_path(store / spec.path, spec, number).exists():
        yield number
        number += 1


def _of_file(store: Place, spec: ArraySpec, number: int) -> tuple[dict[int, str], str]:
    """The reasons for the damaged rows of a file, and for the whole file if it is damaged."""
    first = number * spec.chunks[0]
    rows = range(first, max(first, min(first + spec.chunks[0], spec.shape[0])))
    try:
        held = row_files.read_file(store, spec, number, list(rows))
    except DamagedRowsError as error:
        return dict.fromkeys(rows, error.reason), error.reason
    return row_files.damaged(spec, {first + place: data for place, data in held.items()}), ""


def _of_series(store: Place, spec: ArraySpec, *, must: bool) -> Iterator[Damage]:
    for number in range(-(-spec.shape[0] // CHUNK_ROWS)):
        path = shard_path(store, spec, number)
        reason = check_shard(path, spec) if must or path.exists() else ""
        if reason:
            yield Damage(f"{SERIES}{spec.path}", (), reason)
