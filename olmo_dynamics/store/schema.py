"""Which arrays a store holds, and what each says of itself.

One group a kind of measurement, so that a single group opens labelled; `revisions`, what is known of each checkpoint; and
`probe`, the tokens that all of them read.

    >>> arrays = measured_arrays(layout, "parameters")  # doctest: +SKIP
    >>> [spec.path for spec, _ in arrays][:4]  # doctest: +SKIP
    ['parameters/revision', 'parameters/step', 'parameters/tokens', 'parameters/tensor']
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo_dynamics.names import Quantity, Revision, Status
from olmo_dynamics.store.layout import PROBE_AXES, REVISION, Axis, Layout
from olmo_dynamics.store.zarr_format import TEXT, ArraySpec, data_type, rows_a_chunk

REVISIONS = "revisions"
PROBE = "probe"

MISSING, COMPLETE = 0, 1
"""What `revisions/status` says of a row, and a group's `recorded` of its part: planned only, or wholly there."""

RECORDED = "recorded"
"""The array of each measured group that says whose rows are there."""

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
        """What the array says of itself."""
        return _attributes(self.unit, self.long_name, self.formula, "the run")


_NAME = Column(REVISION, TEXT, "revision", "the name its publisher gave it")
_STEP = Column("step", "int64", "step", "optimiser steps taken; -1 where the name does not say", "steps")
_TOKENS = Column("tokens", "int64", "tokens seen", "step * tokens per step; -1 where the batch is not known", "tokens")

ALONG_REVISION = (_NAME, _STEP, _TOKENS)
"""Known when a revision is planned, and repeated in every measured group."""

PLANNED = (
    _NAME,
    Column("stage", "int64", "stage", "training stage; -1 where the name does not say"),
    Column("ingredient", TEXT, "ingredient", "ingredient of a later stage; empty where there is none"),
    _STEP,
    _TOKENS,
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


def probe_arrays(layout: Layout, arrays: Mapping[str, np.ndarray]) -> Iterator[ArrayAndValues]:
    """The group `probe`: arrays over sequence, or sequence and position."""
    shape = max((values.shape for values in arrays.values()), key=len, default=())
    axes = [layout.axes.get(name) or Axis(name, np.arange(size)) for name, size in zip(PROBE_AXES, shape, strict=False)]
    for axis in axes:
        yield from _axis_arrays(PROBE, axis)
    for name, values in arrays.items():
        attributes = _attributes("1", _PROBE_NAMES.get(name, name), "one value a token or sequence", "the probe")
        yield _fixed(f"{PROBE}/{name}", PROBE_AXES[: values.ndim], values, attributes), values


def group_attributes(layout: Layout, group: str) -> dict[str, Any]:
    """What a group says of itself; `coordinates` tells xarray which arrays are labels and not measurements."""
    if group == REVISIONS:
        return {"title": "what is known of each revision"}
    names = PROBE_AXES if group == PROBE else layout.axis_names(group)
    along = [name for axis in names if axis in layout.axes for name in layout.axes[axis].coordinates]
    if group != PROBE:
        along = [column.name for column in (*ALONG_REVISION, _RECORDED) if column is not _NAME] + along
    return {"title": group, "coordinates": " ".join(along)} if along else {"title": group}


def _axis_arrays(group: str, axis: Axis) -> Iterator[ArrayAndValues]:
    long_name, unit = _AXES.get(axis.name, (axis.name, "1"))
    attributes = _attributes(unit, long_name, f"label of a place along {axis.name}", "the layout")
    yield _fixed(f"{group}/{axis.name}", (axis.name,), axis.labels, attributes), axis.labels
    for name, values in axis.coordinates.items():
        attributes = _attributes("1", name.replace("_", " "), f"of each {axis.name}", "the layout")
        yield _fixed(f"{group}/{name}", (axis.name,), values, attributes), values


def _quantity_spec(quantity: Quantity, layout: Layout) -> ArraySpec:
    attributes = _attributes(quantity.unit, quantity.long_name, quantity.formula, quantity.source)
    attributes |= {key: text for key, text in (("symbol", quantity.symbol), ("note", quantity.note)) if text}
    attributes |= {
        key: bound
        for key, bound in zip(("valid_min", "valid_max"), quantity.valid, strict=True)
        if math.isfinite(bound)
    }
    if quantity.name == "status":
        attributes |= _flags({status.value: status.name.lower() for status in Status})
    return _growing(quantity.key, quantity.dtype, attributes, axes=quantity.axes, row=layout.shape(quantity))


def _growing(
    path: str, dtype: str, attributes: dict[str, Any], *, axes: tuple[str, ...] = (), row: tuple[int, ...] = ()
) -> ArraySpec:
    item = 16 if dtype == TEXT else np.dtype(dtype).itemsize
    return ArraySpec(path, (REVISION, *axes), (0, *row), (rows_a_chunk(math.prod(row) * item), *row), dtype, attributes)


def _fixed(path: str, axes: tuple[str, ...], values: np.ndarray, attributes: dict[str, Any]) -> ArraySpec:
    return ArraySpec(path, axes, values.shape, values.shape, data_type(values), attributes)


def _attributes(unit: str, long_name: str, formula: str, source: str) -> dict[str, Any]:
    return {"units": unit, "long_name": long_name, "formula": formula, "source": source}


def _column_attributes(column: Column) -> dict[str, Any]:
    is_mark = column in (STATUS, _RECORDED)
    return column.attributes | (_flags({MISSING: "missing", COMPLETE: "complete"}) if is_mark else {})


def _flags(meanings: Mapping[int, str]) -> dict[str, Any]:
    return {"flag_values": list(meanings), "flag_meanings": " ".join(meanings.values())}


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
    "input": ("which input of a block", "1"),
    "threshold": ("magnitude", "activation unit"),
    "rms_threshold": ("magnitude over the token's RMS", "1"),
    "rank": ("rank by magnitude, 1 the largest", "1"),
    "top": ("rank by magnitude, 1 the largest", "1"),
    "domain": ("domain of the probe text", "1"),
    "sequence": ("sequence of the probe", "1"),
    "position": ("token position in its sequence", "tokens"),
    "expert": ("expert of a layer", "1"),
    "partner": ("another expert of the layer", "1"),
    "choice": ("rank by router probability, 1 the most probable", "1"),
}
