"""Distances and angles from the weights themselves: two revisions of one tensor at a time, with no error bar.

>>> exact_displacement("cache/demo/run", "first").select("step", "tensor", "distance")  # doctest: +SKIP

Each tensor is read from one revision after another, so every byte moves once. Sums are in float64; of the small tensors, a
few are read together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from olmo_dynamics.checkpoints import Checkpoint, Source, open_source, select
from olmo_dynamics.checkpoints.identity import find_folder
from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.frames.run import Run, revisions_frame
from olmo_dynamics.frames.weights.weight_groups import FLOOR, NUMBERS, SUCCESSIVE, Groups, relative_floor
from olmo_dynamics.names import NO_LAYER, Revision, TensorInfo
from olmo_dynamics.store import Store
from olmo_dynamics.store.identity import require_same_run

_DTYPES: dict[str, type[np.generic]] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
_BATCH = 64 << 20  # bytes of small tensors that are read together
_PIECE = 1 << 18  # elements in float64 at a time

Weights = Store | Run | Source | str | Path


def exact_displacement(
    weights: Weights,
    reference: str | tuple[Weights, str] = "first",
    *,
    by: str = "tensor",
    revisions: str = "all",
    tensors: Sequence[str] = (),
) -> pl.DataFrame:
    """The table of `displacement`, from the weights of a run or of the run that a store was made of.

    Raises:
        OptionError: there is no such revision or tensor, or no two revisions share a tensor.
        SelectionError: the expression cannot be read, or matches nothing.
        StoreMismatchError: the run at the store's source is another one.
    """
    source, held = _opened(weights)
    chosen = select(held, revisions)
    fixed = _fixed(source, held, reference)
    with ExitStack() as stack:
        opened = {each.name: stack.enter_context(source.open(each)) for each in chosen}
        other = stack.enter_context(fixed[0].open(fixed[1])) if fixed else None
        lines = dict.fromkeys(each.line for each in chosen)
        along = [[opened[each.name] for each in chosen if each.line == line] for line in lines]
        compared = [part for line in along for part in _of_line(line, other or str(reference), tensors)]
    if not any(each.pairs for each in compared):
        raise OptionError(
            f"revisions must share a tensor that {','.join(tensors) or '*'} matches, of one shape and in "
            f"{', '.join(['BF16', *_DTYPES])} ({source.name} has none); give other tensors"
        )
    rows = pl.concat([each.frame(by) for each in compared if each.pairs])
    return revisions_frame(chosen).select(LEADING).join(rows, on="revision", maintain_order="left_right")


class _Pair(NamedTuple):
    """One tensor of two revisions a and b: norms, the distance, and those of the unit vectors u and v."""

    first: TensorInfo
    second: TensorInfo
    norms: tuple[float, float]
    distance: float
    apart: float  # ‖u - v‖
    together: float  # ‖u + v‖


@dataclass(frozen=True)
class _Compared:
    """The pairs of one revision with its reference, and the tensors that one of the two lacks."""

    revision: str
    pairs: list[_Pair]
    lacking: list[TensorInfo]

    def frame(self, by: str) -> pl.DataFrame:
        """One row per vector, as in the table from sketches."""
        groups = Groups.of(_labels([each.second for each in self.pairs]), by)
        a, b = (np.array([each.norms[place] for each in self.pairs]) for place in (0, 1))
        norms = [np.sqrt(groups.sums(each**2)) for each in (a, b)]
        numbers = self._numbers(groups, a, b)
        dtypes = ["+".join(sorted({getattr(each, end).dtype for each in self.pairs})) for end in ("first", "second")]
        zeros = np.zeros(groups.count)
        columns = {name: zeros if name.endswith("_se") else numbers[name] for name in NUMBERS}
        columns |= {name: np.full(groups.count, np.nan) for name in SUCCESSIVE}
        columns[FLOOR] = relative_floor(norms[0], norms[1], (dtypes[0], dtypes[1]))
        finite = np.isfinite(norms[0]) & np.isfinite(norms[1])
        found = groups.frame(columns, finite=finite, concentrated=zeros > 0)
        found = found.with_columns(groups.left_out(_labels(self.lacking)))
        return found.select(pl.lit(self.revision).alias("revision"), pl.all())

    def _numbers(self, groups: Groups, a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        """Distances and angles of the long vectors, from the sums of their parts."""
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = (each / np.sqrt(groups.sums(each**2))[groups.places] for each in (a, b))
            moved, apart, together = (
                np.array([getattr(each, name) for each in self.pairs]) for name in ("distance", "apart", "together")
            )
            distance = np.sqrt(groups.sums(moved**2))
            near, far = (
                np.sqrt(groups.sums((x - y) ** 2 + np.where(x * y > 0, x * y * each**2, 0)))
                for each in (apart, together)
            )
            return {
                "distance": distance,
                "relative": np.where(groups.sums(a**2) > 0, distance / np.sqrt(groups.sums(a**2)), np.nan),
                "cosine": 1 - near**2 / 2,
                "angle": 2 * np.arctan2(near, far),
            }


def _labels(infos: Sequence[TensorInfo]) -> pl.DataFrame:
    """Names, layers and roles."""
    layers = [None if each.layer == NO_LAYER else each.layer for each in infos]
    return pl.DataFrame(
        {"tensor": [each.name for each in infos], "layer": layers, "role": [each.role for each in infos]},
        schema={"tensor": pl.String, "layer": pl.Int64, "role": pl.String},
    )


def _opened(weights: Weights) -> tuple[Source, list[Revision]]:
    """The source of weights, and the revisions to choose from: those of a store, if it is one."""
    if isinstance(weights, Store):
        names, named = sorted(weights.done), str(weights.attributes["source"])
        near = find_folder(named, near=weights.path, accept=lambda each: any((each / name).is_dir() for name in names))
        source = open_source(near or named)
        require_same_run(weights, source)
        return source, weights.revisions()
    if isinstance(weights, str | Path) and (Path(weights) / "zarr.json").is_file():
        raise OptionError(
            f"{weights} is a store, which must be opened: displacement(od.open_store({str(weights)!r}), …)"
        )
    source = weights if isinstance(weights, Source) else (weights if isinstance(weights, Run) else Run(weights)).source
    return source, source.revisions()


def _fixed(
    source: Source, held: list[Revision], reference: str | tuple[Weights, str]
) -> tuple[Source, Revision] | None:
    """The source and revision of the reference; None for `first` and `previous`."""
    if isinstance(reference, tuple):
        other, _ = _opened(reference[0])
        return other, other.find(reference[1])
    if reference in ("first", "previous"):
        return None
    for each in held:
        if each.name == reference:
            return source, each
    known = ("first", "previous", *(each.name for each in held))
    raise OptionError(
        f"reference must be first, previous, or a revision of {source.name} (got {reference})"
        f"{did_you_mean(reference, known)}"
    )


def _of_line(line: list[Checkpoint], reference: Checkpoint | str, patterns: Sequence[str]) -> list[_Compared]:
    """The pairs of each revision of a line; two revisions of a batch of tensors are held at a time."""
    found: list[_Compared] = [_Compared(each.revision.name, [], []) for each in line]
    fixed = reference if isinstance(reference, Checkpoint) else None
    order = dict.fromkeys(name for each in line for name in each.tensors)
    for batch in _batches(line, [name for name in order if _matches(line, name, patterns)]):
        before = None if fixed is None else _read(fixed, batch)
        for each, compared in zip(line, found, strict=True):
            here = _read(each, batch)
            before = here if before is None else before
            compared.pairs.extend(_pairs(before, here))
            compared.lacking.extend(_lacking(before, here))
            before = here if reference == "previous" else before
    return found


def _matches(line: list[Checkpoint], name: str, patterns: Sequence[str]) -> bool:
    info = next(each.tensors[name] for each in line if name in each.tensors)
    return not patterns or any(fnmatchcase(name, pattern) or info.role == pattern for pattern in patterns)


def _batches(line: list[Checkpoint], names: list[str]) -> Iterator[list[str]]:
    """Names of tensors that are read together: one large one, or several small ones."""
    batch: list[str] = []
    size = 0
    for name in names:
        nbytes = max(each.tensors[name].nbytes for each in line if name in each.tensors)
        if batch and size + nbytes > _BATCH:
            yield batch
            batch, size = [], 0
        batch, size = [*batch, name], size + nbytes
    if batch:
        yield batch


Read = Mapping[str, tuple[TensorInfo, np.ndarray]]


def _read(checkpoint: Checkpoint, names: list[str]) -> Read:
    """The bytes of tensors that a checkpoint has, as they are stored."""
    infos = [checkpoint.tensors[name] for name in names if name in checkpoint.tensors]
    readable = [each for each in infos if each.dtype == "BF16" or each.dtype in _DTYPES]
    raws = checkpoint.read_many(readable)
    return {each.name: (each, raws[each.name]) for each in readable}


def _pairs(first: Read, second: Read) -> Iterator[_Pair]:
    for name, (info, raw) in second.items():
        if name in first and first[name][0].shape == info.shape and info.size:
            other, before = first[name]
            yield _pair(other, before, info, raw)


def _lacking(first: Read, second: Read) -> Iterator[TensorInfo]:
    """The tensors that one of two revisions lacks, or has in another shape."""
    for name, (info, _) in {**first, **second}.items():
        if name not in first or name not in second or first[name][0].shape != second[name][0].shape:
            yield info


def _pair(first: TensorInfo, a: np.ndarray, second: TensorInfo, b: np.ndarray) -> _Pair:
    """The numbers of one tensor, in two passes: norms and the distance, then the unit vectors."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.zeros(3)
        for x, y in zip(_doubles(a, first.dtype), _doubles(b, second.dtype), strict=True):
            squares += (x @ x, y @ y, (y - x) @ (y - x))
        norms = np.sqrt(squares[:2])
        units = np.zeros(2)
        for x, y in zip(_doubles(a, first.dtype), _doubles(b, second.dtype), strict=True):
            u, v = x / norms[0], y / norms[1]
            units += ((u - v) @ (u - v), (u + v) @ (u + v))
    apart, together = np.sqrt(units).tolist()
    return _Pair(first, second, (float(norms[0]), float(norms[1])), float(np.sqrt(squares[2])), apart, together)


def _doubles(raw: np.ndarray, dtype: str) -> Iterator[np.ndarray]:
    """The elements in float64, piece by piece."""
    if raw.ctypes.data % 8:
        raw = raw.copy()
    values = raw.view(np.uint16) if dtype == "BF16" else raw.view(_DTYPES[dtype])
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE]
        if dtype == "BF16":
            piece = (piece.astype(np.uint32) << 16).view(np.float32)
        yield piece.astype(np.float64)
