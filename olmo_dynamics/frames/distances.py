"""Distances and angles between the weights of revisions, estimated from their sketches.

>>> moved = displacement(open_store("run.zarr"))  # doctest: +SKIP
>>> moved.filter(role="q_proj").select("step", "layer", "relative", "relative_se")  # doctest: +SKIP

No weights are read. Weights published in bfloat16 are rounded by up to 2⁻⁹ of each element, so that a relative distance
below about 3e-3 says little.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import STATUS_WORDS, Grid
from olmo_dynamics.frames.sketched import SKETCHES, Matrix, Sketched, Sketches, concentrated, cosines, estimates
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.store import Store

Endpoint = str | tuple[Store, str]
Fixed = Sketched | Literal["first", "previous"]

_NUMBERS = ("distance", "distance_se", "relative", "relative_se", "cosine", "cosine_se", "angle", "angle_se")
_SUCCESSIVE = ("successive_cosine", "successive_cosine_se")


def displacement(store: Store, reference: str = "first") -> pl.DataFrame:
    """The distance of every tensor from a reference, by revision.

    Args:
        store: a store with the group `sketches`.
        reference: `first` or `previous`, of the same line of training, or the name of a revision.

    Returns:
        One row per revision and tensor: the leading columns, `tensor`, `layer`, `role`; `distance` ‖θ - θ_ref‖, in weight
        units; `relative`, over ‖θ_ref‖; `cosine` and `angle` (radians) between θ and θ_ref; `successive_cosine`, between
        the last two displacements θ - θ_previous of the line, of which equal intervals alone can be compared. Each has its
        standard error in `_se`, 0 where it is exact. `concentrated` is true where a handful of elements hold the mass, so
        that 95 % intervals hold less often than 93 %. `status` is `non-finite` where weights hold NaN or Inf.

    Raises:
        OptionError: the store has no sketches, or no such revision.
    """
    sketches = Sketches(store)
    leading = Grid(store).leading
    rows = [row for row in leading.iter_rows(named=True) if SKETCHES in store.recorded(row["revision"])]
    names = [row["revision"] for row in rows]
    known = ("first", "previous", *names)
    if reference not in known:
        raise OptionError(
            f"reference must be first, previous, or a revision of {store.path} with sketches (got {reference})"
            f"{did_you_mean(reference, known)}"
        )
    if not names:
        raise OptionError(f"{store.path} must hold sketches of a revision; collect with --record {SKETCHES}")
    fixed: Fixed = (
        "first" if reference == "first" else "previous" if reference == "previous" else sketches.of(reference)
    )
    lines = dict.fromkeys(row["line"] for row in rows)
    along = [[row["revision"] for row in rows if row["line"] == line] for line in lines]
    frames = [frame for line in along for frame in _of_line(sketches, line, fixed)]
    return leading.join(pl.concat(frames), on="revision", how="inner", maintain_order="left_right")


def between(store: Store | Endpoint, first: Endpoint, second: str | None = None) -> pl.DataFrame:
    """The distance of every tensor between two revisions, of one store or of two.

    `between(store, "step0", "step1000")`, or `between((a, "step0"), (b, "step0"))`: tensors of both stores are compared
    where name and number of elements agree, as those of a fork and its parent do, or of two seeds.

    Returns:
        One row per tensor: `revision` (the second), `reference` (the first), and the columns of `displacement` from `tensor`
        on, without `successive_cosine`.

    Raises:
        OptionError: a store has no sketches of a revision, the stores' sketches differ in size or seed, or they share no tensor.
    """
    (a, from_), (b, to) = _endpoints(store, first, second)
    mine, theirs = Sketches(a), Sketches(b)
    mine.check_comparable(theirs)
    place_of = {name: place for place, name in enumerate(theirs.tensors)}
    here = np.array([place for place, name in enumerate(mine.tensors) if name in place_of], dtype=np.int64)
    there = np.array([place_of[mine.tensors[place]] for place in here.tolist()], dtype=np.int64)
    found = _compared(mine.of(from_).at(here), theirs.of(to).at(there), _labels(mine)[here])
    if not found.height:
        raise OptionError(f"{a.path} and {b.path} must share tensors of one name and size; compare other stores")
    return found.select(pl.lit(to).alias("revision"), pl.lit(from_).alias("reference"), pl.all())


def _endpoints(
    store: Store | Endpoint, first: Endpoint, second: str | None
) -> tuple[tuple[Store, str], tuple[Store, str]]:
    if isinstance(store, Store) and isinstance(first, str) and second is not None:
        return (store, first), (store, second)
    if isinstance(store, tuple) and isinstance(first, tuple) and second is None:
        return store, first
    raise OptionError('write between(store, "step0", "step100"), or between((a, "step0"), (b, "step0"))')


def _of_line(sketches: Sketches, names: list[str], fixed: Fixed) -> Iterator[pl.DataFrame]:
    """The numbers of one line's revisions, in order; three revisions are held at a time, and the reference."""
    labels = _labels(sketches)
    first = before = sketches.of(names[0])
    step: Matrix | None = None
    for name in names:
        here = sketches.of(name)
        reference = first if fixed == "first" else before if fixed == "previous" else fixed
        taken, step = step, np.where(_both(before, here)[:, np.newaxis], here.values - before.values, np.nan)
        found = _compared(reference, here, labels)
        cosine = (
            (np.full(len(step), np.nan),) * 2
            if taken is None or name == names[1]
            else cosines(taken, step, here.spread)
        )
        kept = _both(reference, here)
        successive = [
            pl.Series(each, values[kept]).fill_nan(None) for each, values in zip(_SUCCESSIVE, cosine, strict=True)
        ]
        yield found.select(
            pl.lit(name).alias("revision"),
            *("tensor", "layer", "role", *_NUMBERS), *successive, *("concentrated", "status"),
        )  # fmt: skip
        before = here


def _labels(sketches: Sketches) -> pl.DataFrame:
    layer = pl.Series("layer", sketches.coordinates["layer"])
    role = [str(each) for each in sketches.coordinates["role"]]
    return pl.DataFrame([pl.Series("tensor", sketches.tensors), layer.set(layer == -1, None), pl.Series("role", role)])


def _both(first: Sketched, second: Sketched) -> np.ndarray:
    """True for the tensors that both revisions have, of the same size."""
    both: np.ndarray = (first.counts == second.counts) & (first.counts >= 0)
    return both


def _compared(first: Sketched, second: Sketched, labels: pl.DataFrame) -> pl.DataFrame:
    """The numbers of the tensors that both revisions have."""
    kept = _both(first, second)
    a, b, spread = first.values[kept], second.values[kept], first.at(kept).spread
    found = estimates(a, b, spread)
    few = np.logical_or.reduce([concentrated(each, spread) for each in (a, b, b - a)])
    finite = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    words = np.where(finite, STATUS_WORDS[Status.MEASURED], STATUS_WORDS[Status.NONFINITE]).tolist()
    numbers = [pl.Series(name, np.where(finite, found[name], np.nan)).fill_nan(None) for name in _NUMBERS]
    return labels.filter(kept).hstack([*numbers, pl.Series("concentrated", few), pl.Series("status", words)])
