"""The arrays of a store, with their attributes.

One group per kind of measurement, so that a single group opens labelled; `revisions`, the facts about each checkpoint; and
`probe`, the tokens that all of them read.

    >>> arrays = measured_arrays(layout, "parameters")  # doctest: +SKIP
    >>> [spec.path for spec, _ in arrays][:4]  # doctest: +SKIP
    ['parameters/revision', 'parameters/step', 'parameters/tokens', 'parameters/tensor']
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from olmo_dynamics.checkpoints.catalog.known_runs import known_run
from olmo_dynamics.checkpoints.catalog.positions import with_positions
from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision
from olmo_dynamics.names import FORK, Revision
from olmo_dynamics.quantities.declaration import Quantity
from olmo_dynamics.store.declarations import MARK, describe, flags, group_attributes, quantity_attributes
from olmo_dynamics.store.layout import PROBE_AXES, RECORDED, REVISION, Axis, Layout, as_text
from olmo_dynamics.store.zarr_format import TEXT, ArraySpec, data_type, row_bytes, rows_a_chunk

REVISIONS = "revisions"
PROBE = "probe"

MISSING, COMPLETE = 0, 1
"""Values of `revisions/status` for a row, and of a group's marks for its part of it: planned only, or wholly there."""

ArrayAndValues = tuple[ArraySpec, np.ndarray | None]


@dataclass(frozen=True, slots=True)
class Column:
    """One array of the group `revisions`."""

    name: str
    dtype: str
    long_name: str
    formula: str
    unit: str = "1"

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the array."""
        return describe(self.unit, self.long_name, self.formula, "the run")


_NAME = Column(REVISION, TEXT, "revision", "the name its publisher gave it")
_STEP = Column("step", "int64", "step", "optimiser steps taken; -1 where the name does not say", "steps")
_TOKENS = Column("tokens", "int64", "tokens seen", "step * tokens per step; -1 where the batch is not known", "tokens")

ALONG_REVISION = (_NAME, _STEP, _TOKENS)
"""Known when a revision is planned; repeated in every measured group."""

PLANNED = (
    _NAME,
    Column("stage", "int64", "stage", "training stage; -1 where the name does not say"),
    Column("ingredient", TEXT, "ingredient", "ingredient of a later stage; empty where there is none"),
    _STEP,
    _TOKENS,
    Column("seed", TEXT, "seed", "seed or variant of the run; empty where the name does not say"),
    Column(
        "line",
        TEXT,
        "line of training",
        "stage, ingredient, seed and fork that the name tells; run where it tells none",
    ),
    Column(
        "position_step",
        "int64",
        "steps of the whole training",
        "step + steps of the stages before; -1 where they are not known",
        "steps",
    ),
    Column(
        "position_tokens",
        "int64",
        "tokens of the whole training",
        "tokens + tokens of the stages before; -1 where they are not known",
        "tokens",
    ),
)
"""Known when a revision is planned."""

COLLECTED = (
    Column("commit", TEXT, "commit", "the hash the revision was pinned to; empty for a folder"),
    Column("dtype", TEXT, "stored dtype", "the dtype of the weights as published"),
    Column("weights_sha256", TEXT, "SHA-256 of the weights", "of the file, or of the list of shards and their hashes"),
    Column("collected_at", TEXT, "time of measurement", "ISO 8601, UTC"),
    Column("nonfinite_tensors", "int64", "tensors with NaN or Inf", "count of parameters/status == 2", "tensors"),
)
"""Known when a revision has been measured."""

STATUS = Column("status", "uint8", "status", "0 missing, 1 complete; read no other array's row where it is 0")
_RECORDED = Column(RECORDED, "uint8", "recorded", "0 missing, 1 complete; read no row of this group where it is 0")


def revision_arrays() -> Iterator[ArrayAndValues]:
    """The group `revisions`, with no row yet."""
    for column in (*PLANNED, *COLLECTED, STATUS):
        yield _growing(f"{REVISIONS}/{column.name}", column.dtype, _column_attributes(column)), None


def measured_arrays(layout: Layout, group: str) -> Iterator[ArrayAndValues]:
    """One group of quantities: coordinates along revision, the axes with theirs, and the quantities."""
    for column in (*ALONG_REVISION, _RECORDED):
        yield _growing(f"{group}/{column.name}", column.dtype, _column_attributes(column)), None
    for name in layout.axis_names(group):
        yield from _axis_arrays(group, layout.axes[name])
    for quantity in layout.quantities(group):
        yield _quantity_spec(quantity, layout), None


def added_arrays(
    layout: Layout, quantities: Iterable[Quantity], *, mark: str, held: Collection[str]
) -> Iterator[ArrayAndValues]:
    """Quantities that join a group: their own mark, the axes that are not among those held, and the quantities."""
    chosen = list(quantities)
    group = chosen[0].group
    column = replace(
        _RECORDED, name=mark, formula=f"0 missing, 1 complete; read no array whose mark is {mark} where it is 0"
    )
    yield _growing(f"{group}/{mark}", column.dtype, _column_attributes(column)), None
    for name in dict.fromkeys(name for quantity in chosen for name in quantity.axes):
        if name not in held:
            yield from _axis_arrays(group, layout.axes[name])
    for quantity in chosen:
        spec = _quantity_spec(quantity, layout)
        yield replace(spec, attributes={**spec.attributes, MARK: mark}), None


def probe_arrays(layout: Layout, arrays: Mapping[str, np.ndarray]) -> Iterator[ArrayAndValues]:
    """The group `probe`: arrays over sequence, or sequence and position."""
    shape = max((values.shape for values in arrays.values()), key=len, default=())
    axes = [layout.axes.get(name) or Axis(name, np.arange(size)) for name, size in zip(PROBE_AXES, shape, strict=False)]
    for axis in axes:
        yield from _axis_arrays(PROBE, axis)
    for name, values in arrays.items():
        attributes = describe("1", _PROBE_NAMES.get(name, name), "one value per token or sequence", "the probe")
        yield _fixed(f"{PROBE}/{name}", PROBE_AXES[: values.ndim], values, attributes), values


def node_attributes(layout: Layout, group: str) -> dict[str, Any]:
    """The attributes of a group: of `revisions` and `probe` a title, of any other its declaration."""
    if group == REVISIONS:
        return {"title": "facts about each revision"}
    if group == PROBE:
        along = coordinates_of(layout, PROBE_AXES)
        return {"title": group, "coordinates": " ".join(along)} if along else {"title": group}
    along = [column.name for column in (*ALONG_REVISION, _RECORDED) if column is not _NAME]
    return group_attributes(layout.groups[group], [*along, *coordinates_of(layout, layout.axis_names(group))])


def coordinates_of(layout: Layout, axes: Iterable[str]) -> list[str]:
    """The coordinates along some axes, beside the labels."""
    return [name for axis in axes if axis in layout.axes for name in layout.axes[axis].coordinates]


def _axis_arrays(group: str, axis: Axis) -> Iterator[ArrayAndValues]:
    long_name, unit = _AXES.get(axis.name, (axis.name.replace("_", " "), "1"))
    attributes = describe(unit, long_name, f"label of a place along {axis.name}", "the layout")
    yield _fixed(f"{group}/{axis.name}", (axis.name,), axis.labels, attributes), axis.labels
    for name, values in axis.coordinates.items():
        attributes = describe("1", name.replace("_", " "), f"of each {axis.name}", "the layout")
        yield _fixed(f"{group}/{name}", (axis.name,), values, attributes), values


def _quantity_spec(quantity: Quantity, layout: Layout) -> ArraySpec:
    row = layout.shape(quantity)
    return _growing(quantity.key, quantity.dtype, quantity_attributes(quantity), axes=quantity.axes, row=row)


def _growing(
    path: str, dtype: str, attributes: dict[str, Any], *, axes: tuple[str, ...] = (), row: tuple[int, ...] = ()
) -> ArraySpec:
    chunks = (rows_a_chunk(row_bytes(row, dtype), is_checked=True), *row)
    return ArraySpec(path, (REVISION, *axes), (0, *row), chunks, dtype, attributes, is_checked=True)


def _fixed(path: str, axes: tuple[str, ...], values: np.ndarray, attributes: dict[str, Any]) -> ArraySpec:
    return ArraySpec(path, axes, values.shape, values.shape, data_type(values), attributes, is_checked=True)


def _column_attributes(column: Column) -> dict[str, Any]:
    is_mark = column is STATUS or column.name.startswith(RECORDED)
    return column.attributes | (flags({MISSING: "missing", COMPLETE: "complete"}) if is_mark else {})


def known_by_name(columns: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The planned columns that a store of an earlier version lacks, from the names of its revisions and the known run."""
    lacking = [column for column in PLANNED if column.name not in columns]
    if not lacking:
        return {}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    revisions = [revision_from(dict(zip(columns, row, strict=True))) for row in rows]
    placed = with_positions(revisions, known_run(source), whole=False)
    found = {column.name: planned_values(column, placed) for column in lacking}
    return {name: as_text(values) if values.dtype == object else values for name, values in found.items()}


def revision_from(row: Mapping[str, Any]) -> Revision:
    """The revision of one row of the group `revisions`; parts that have no column are read from its name."""
    numbers = ("stage", "step", "tokens", "position_step", "position_tokens")
    told = parse_revision(row[REVISION])
    line: str = row.get("line", "")
    held: dict[str, Any] = {name: _known(row[name]) for name in numbers if name in row}
    held |= {
        "ingredient": row["ingredient"] or None,
        "seed": row.get("seed", told.seed) or None,
        "commit": row["commit"],
    }
    if line.endswith(f"/{FORK}"):
        held["forked_from"] = line.removesuffix(f"/{FORK}")
    return replace(told, **held)


def _known(number: int) -> int | None:
    return None if number < 0 else number


def planned_values(column: Column, revisions: list[Revision]) -> np.ndarray:
    """A planned column's values, -1 or empty where a revision's name does not say."""
    if column is _NAME:
        return np.array([revision.name for revision in revisions], dtype=object)
    found = [getattr(revision, column.name) for revision in revisions]
    if column.dtype == TEXT:
        return np.array([value or "" for value in found], dtype=object)
    return np.array([-1 if value is None else value for value in found], dtype=np.int64)


_PROBE_NAMES = {
    "token_id": "token id",
    "mask": "true where a token is not padding",
    "domain": "index of the sequence's domain in the attribute probe of the store",
    "token_bytes": "UTF-8 bytes of a token",
}

_AXES = {
    "tensor": ("tensor, by its Hugging Face name", "1"),
    "embedding": ("embedding matrix", "1"),
    "token": ("token id", "1"),
    "feature": ("feature of the residual stream", "1"),
    "quantile": ("quantile level", "1"),
    "token_quantile": ("quantile level over tokens", "1"),
    "decile": ("tenth of the token ids seen in the probe, rarest first", "1"),
    "site": ("place in the forward pass", "1"),
    "layer": ("block; -1 outside the blocks", "1"),
    "input": ("input of a block", "1"),
    "threshold": ("magnitude", "activation unit"),
    "rms_threshold": ("magnitude over the token's RMS", "1"),
    "rank": ("rank by magnitude, 1 the largest", "1"),
    "top": ("rank by magnitude, 1 the largest", "1"),
    "domain": ("domain of the probe text", "1"),
    "sequence": ("sequence of the probe", "1"),
    "position": ("token position in its sequence", "tokens"),
    "expert": ("expert of a layer", "1"),
    "partner": ("another expert of the layer", "1"),
    "order": ("order of an n-gram model", "1"),
    "choice": ("rank by router probability, 1 the most probable", "1"),
}
