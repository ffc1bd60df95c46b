"""Distances and angles between the weights of revisions: from their sketches, or exactly from the weights themselves.

>>> moved = displacement(open_store("run.zarr"))  # doctest: +SKIP
>>> moved.filter(role="q_proj").select("step", "layer", "relative", "relative_se")  # doctest: +SKIP

From sketches, no weights are read. Weights published in bfloat16 are rounded to 8 binary digits, so that a relative distance
below about 3e-3 says little: `relative_floor` is what rounding makes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import polars as pl

from olmo_dynamics.checkpoints import Source, select
from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.run import Run
from olmo_dynamics.frames.weights.estimates import Matrix, concentrated, cosines, estimates
from olmo_dynamics.frames.weights.exact_distances import exact_displacement
from olmo_dynamics.frames.weights.sketched import SKETCHES, Sketched, Sketches
from olmo_dynamics.frames.weights.weight_groups import (
    FLOOR,
    LEFT_OUT,
    NUMBERS,
    SUCCESSIVE,
    By,
    Groups,
    relative_floor,
    require_by,
)
from olmo_dynamics.store import Store

Endpoint = tuple[Store, str]
Weights = Store | Run | Source | str | Path


def displacement(
    store: Weights,
    reference: str | tuple[Weights, str] = "first",
    *,
    by: By = "tensor",
    exact: bool = False,
    revisions: str = "all",
    tensors: Sequence[str] = (),
) -> pl.DataFrame:
    """The distance of weights from a reference, by revision: of every tensor, or of all tensors of a layer or role as one vector.

    Args:
        store: a store with the group `sketches`; with `exact`, also a run, or its name.
        reference: `first` or `previous` of the chosen revisions of the same line of training; the name of a revision; or, of
            another store or run, a pair such as `(parent, "step1000")`. Tensors are compared where name and number of
            elements agree, as those of a fork and its parent do, or of two seeds.
        by: `tensor`, `layer`, `role` or `all`: the vectors that are compared.
        exact: read the weights themselves, two revisions of one tensor at a time, from the run that the store was made of.
            Standard errors are 0, and `successive_cosine`, which needs a third revision, is null.
        revisions: an expression such as `stage1:log24`.
        tensors: globs of names, or roles; every tensor unless given.

    Returns:
        One row per revision and vector: the leading columns, those of `by` (`tensor`, `layer`, `role`); `distance`
        ‖θ - θ_ref‖, in weight units; `relative`, over ‖θ_ref‖; `cosine` and `angle` (radians) between θ and θ_ref;
        `successive_cosine`, between the last two displacements θ - θ_previous of the line, of which equal intervals alone
        can be compared. Each has its standard error in `_se`, 0 where it is exact. `relative_floor` is the relative distance
        that the rounding of both revisions makes by itself, from their dtypes. `concentrated` is true where a handful of
        elements hold the mass, so that 95 % intervals hold less often than 93 %. `status` is `non-finite` where weights hold
        NaN or Inf. Of vectors of several tensors, `left_out` counts those that one of the two revisions lacks, or has in
        another size: they are no part of the numbers.

    Raises:
        OptionError: the store has no sketches, or no such revision or tensor.
        SelectionError: the expression cannot be read, or matches nothing.
    """
    require_by(by)
    _check_shapes(reference, tensors)
    if exact:
        return exact_displacement(store, reference, by=by, revisions=revisions, tensors=tensors)
    sketches, other = _sketches(store), _sketches(reference[0]) if isinstance(reference, tuple) else None
    leading = _chosen(sketches, revisions)
    view = _View(sketches, by, _matching(sketches, tensors))
    fixed = _fixed(view, reference, leading["revision"].to_list(), other)
    along = leading.group_by("line", maintain_order=True).agg("revision")["revision"].to_list()
    frames = [frame for line in along for frame in _of_line(view, line, fixed)]
    return leading.join(pl.concat(frames), on="revision", how="inner", maintain_order="left_right")


def between(
    store: Store | Endpoint, first: str | Endpoint, second: str | None = None, *, by: By = "tensor"
) -> pl.DataFrame:
    """The distance of every tensor between two revisions, of one store or of two.

    `between(store, "step0", "step1000")`, or `between((a, "step0"), (b, "step0"))`: tensors of both stores are compared
    where name and number of elements agree, as those of a fork and its parent do, or of two seeds.

    Returns:
        One row per tensor, or as `by` says: `revision` (the second), `reference` (the first), and the columns of
        `displacement` from `tensor` on, without `successive_cosine`.

    Raises:
        OptionError: a store has no sketches of a revision, the stores' sketches differ in size, seed or scheme, or they share
            no tensor.
    """
    require_by(by)
    (a, from_), (b, to) = _endpoints(store, first, second)
    mine, theirs = Sketches(a), Sketches(b)
    mine.check_comparable(theirs)
    view = _View(mine, by, np.ones(len(mine.tensors), dtype=bool))
    found = view.compared(view.of(from_), view.of(to, theirs))
    if not found.height:
        raise OptionError(f"{a.path} and {b.path} must share tensors of one name and size; compare other stores")
    return found.select(pl.lit(to).alias("revision"), pl.lit(from_).alias("reference"), pl.all())


def _endpoints(store: Store | Endpoint, first: str | Endpoint, second: str | None) -> tuple[Endpoint, Endpoint]:
    if isinstance(store, Store) and isinstance(first, str) and second is not None:
        return (store, first), (store, second)
    if isinstance(store, tuple) and isinstance(first, tuple) and second is None:
        return store, first
    raise OptionError('write between(store, "step0", "step100"), or between((a, "step0"), (b, "step0"))')


@dataclass(frozen=True)
class _View:
    """The sketches of some tensors of a store, and the vectors that they are parts of."""

    sketches: Sketches
    by: By
    chosen: np.ndarray  # True for each tensor that counts

    @property
    def labels(self) -> pl.DataFrame:
        return self.sketches.labels.filter(self.chosen)

    def of(self, revision: str, other: Sketches | None = None) -> Sketched:
        """The sketches of a revision of this store, or of another one."""
        if other is None:
            return self.sketches.of(revision).at(self.chosen)
        return other.placed(revision, self.labels["tensor"].to_list())

    def compared(self, first: Sketched, second: Sketched) -> pl.DataFrame:
        """The numbers of the vectors whose tensors both revisions have."""
        kept = _both(first, second)
        groups = Groups.of(self.labels.filter(kept), self.by)
        a, b, spread = first.values[kept], second.values[kept], first.at(kept).spread
        found = estimates(a, b, spread, groups.places)
        few = np.logical_or.reduce([concentrated(each, spread, groups.places) for each in (a, b, b - a)])
        norms = [np.sqrt(groups.sums((each**2).sum(axis=1))) for each in (a, b)]
        found[FLOOR] = relative_floor(norms[0], norms[1], (first.dtype, second.dtype))
        finite = np.isfinite(norms[0]) & np.isfinite(norms[1])
        lacking = ~kept & ((first.counts >= 0) | (second.counts >= 0))
        frame = groups.frame(found, finite=finite, concentrated=few)
        return frame.with_columns(groups.left_out(self.labels.filter(lacking)))

    def turns(self, before: Matrix, after: Matrix, first: Sketched, second: Sketched) -> list[pl.Series]:
        """The cosines of two displacements, for the same vectors as `compared` has of two revisions."""
        kept = _both(first, second)
        groups = Groups.of(self.labels.filter(kept), self.by)
        found = cosines(before[kept], after[kept], second.at(kept).spread, groups.places)
        return [pl.Series(name, values).fill_nan(None) for name, values in zip(SUCCESSIVE, found, strict=True)]


def _of_line(view: _View, names: list[str], fixed: Sketched | str) -> Iterator[pl.DataFrame]:
    """The numbers of one line's revisions, in order; three revisions are held at a time, and the reference."""
    first = before = view.of(names[0])
    step = np.full_like(first.values, np.nan)
    for name in names:
        here = view.of(name)
        reference = fixed if isinstance(fixed, Sketched) else first if fixed == "first" else before
        moved = np.where(_both(before, here)[:, np.newaxis] & (name != names[0]), here.values - before.values, np.nan)
        found = view.compared(reference, here).with_columns(view.turns(step, moved, reference, here))
        after = [column for column in found.columns if column not in (*NUMBERS, *SUCCESSIVE, FLOOR)]
        last = [column for column in after if column in ("concentrated", "status", LEFT_OUT)]
        labels = [column for column in after if column not in last]
        yield found.select(pl.lit(name).alias("revision"), *labels, *NUMBERS, *SUCCESSIVE, FLOOR, *last)
        before, step = here, moved


def _both(first: Sketched, second: Sketched) -> np.ndarray:
    """True for the tensors that both revisions have, of the same size."""
    both: np.ndarray = (first.counts == second.counts) & (first.counts >= 0)
    return both


def _check_shapes(reference: object, tensors: object) -> None:
    """Check that the reference is a word or a pair, and that the tensors are a list."""
    pair = isinstance(reference, tuple) and len(reference) == 2 and isinstance(reference[1], str)
    if not isinstance(reference, str) and not pair:
        raise OptionError(f'reference must be a word, or a pair such as (store, "step1000") (got {reference!r})')
    if isinstance(tensors, str):
        raise OptionError(f"tensors must be a list of names or roles, such as [{tensors!r}] (got {tensors!r})")


def _sketches(store: object) -> Sketches:
    if not isinstance(store, Store):
        if isinstance(store, str | Path) and (Path(store) / "zarr.json").is_file():
            raise OptionError(
                f"{store} is a store, which must be opened: displacement(od.open_store({str(store)!r}), …)"
            )
        raise OptionError(f"displacement needs a store with sketches (got {store}); add exact=True to read weights")
    return Sketches(store)


def _chosen(sketches: Sketches, revisions: str) -> pl.DataFrame:
    """The leading columns of the chosen revisions that have sketches."""
    store = sketches.store
    held = [each for each in store.revisions() if SKETCHES in store.recorded(each.name)]
    if not held:
        raise OptionError(f"{store.path} must hold sketches of a revision; collect with --record {SKETCHES}")
    names = [each.name for each in select(held, revisions)]
    return Grid(store).leading.filter(pl.col("revision").is_in(names))


def _matching(sketches: Sketches, patterns: Sequence[str]) -> np.ndarray:
    """True for the tensors whose name matches a glob, or whose role is named."""
    names, roles = sketches.labels["tensor"], sketches.labels["role"]
    chosen = np.array([
        not patterns or any(fnmatchcase(name, pattern) or role == pattern for pattern in patterns)
        for name, role in zip(names, roles, strict=True)
    ], dtype=bool)  # fmt: skip
    if not chosen.any():
        raise OptionError(
            f"tensors must match a tensor in {sketches.store.path}, by its name or role (got {','.join(patterns)})"
        )
    return chosen


def _fixed(
    view: _View, reference: str | tuple[Weights, str], names: list[str], other: Sketches | None
) -> Sketched | str:
    """The sketches of the reference, or the word that tells it."""
    if isinstance(reference, tuple):
        assert other is not None
        view.sketches.check_comparable(other)
        found = view.of(reference[1], other)
        if not _both(found, view.of(names[0])).any():
            raise OptionError(
                f"{view.sketches.store.path} and {other.store.path} must share tensors of one name and size; compare "
                "other stores"
            )
        return found
    if reference in ("first", "previous"):
        return reference
    store = view.sketches.store
    held = [name for name in store.done if SKETCHES in store.recorded(name)]
    if reference not in held:
        known = ("first", "previous", *held)
        raise OptionError(
            f"reference must be first, previous, or a revision of {store.path} with sketches (got {reference})"
            f"{did_you_mean(reference, known)}"
        )
    return view.of(reference)
