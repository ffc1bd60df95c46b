"""Angles between the optimiser's first moment and the way that weights go, from sketches of both.

>>> moment_cosine(open_store("run.zarr"), "next").select("step", "tensor", "cosine", "cosine_se")  # doctest: +SKIP

AdamW steps against its first moment: a cosine of -1 means that the weights went straight down the smoothed gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import STATUS_WORDS, Grid
from olmo_dynamics.frames.weights.estimates import concentrated, cosines
from olmo_dynamics.frames.weights.sketched import SKETCHES, Sketches
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.store import Store

OPTIMIZER = "optimizer"

_REFERENCES = ("previous", "next", "first")
_FACTS = ("seed", "size", "scheme")


def moment_cosine(store: Store, reference: str = "previous") -> pl.DataFrame:
    """The cosine of the first moment m with a displacement of the weights, by revision and tensor: m·d / (‖m‖ ‖d‖).

    Args:
        store: a store with the groups `sketches` and `optimizer`, of one sketch size.
        reference: `previous` or `first`, of the same line of training, or the name of a revision: d = θ - θ_reference; or
            `next`: d = θ_next - θ, where the weights went from there.

    Returns:
        One row per revision and tensor that has both: the leading columns, `reference`, `tensor`, `layer`, `role`; `cosine`,
        null where m or d is 0; `cosine_se`, its standard error, 0 where both sketches are exact; `concentrated`, true where
        a handful of elements hold the mass of m or d, so that 95 % intervals hold less often than 93 %; and `status`,
        `non-finite` where weights or moments hold NaN or Inf.

    Raises:
        OptionError: the store lacks a group or the revision, or its sketches have different sizes or seeds.
    """
    sketches = Sketches(store)
    _check_moments(sketches)
    leading = Grid(store).leading
    rows = [row for row in leading.iter_rows(named=True) if SKETCHES in store.recorded(row["revision"])]
    known = (*_REFERENCES, *(row["revision"] for row in rows))
    if reference not in known:
        raise OptionError(
            f"reference must be previous, next, first, or a revision of {store.path} with sketches (got {reference})"
            f"{did_you_mean(reference, known)}"
        )
    lines = dict.fromkeys(row["line"] for row in rows)
    along = [[row["revision"] for row in rows if row["line"] == line] for line in lines]
    pairs = [pair for names in along for pair in _pairs(names, reference)]
    frames = [_of_pair(sketches, *pair) for pair in pairs if OPTIMIZER in store.recorded(pair[0])]
    if not frames:
        raise OptionError(
            f"{store.path} must hold a revision with an optimiser's state and sketches, and another to which it is compared; "
            f"collect with --record {SKETCHES},{OPTIMIZER}"
        )
    return leading.join(pl.concat(frames), on="revision", how="inner", maintain_order="left_right")


def _check_moments(sketches: Sketches) -> None:
    store = sketches.store
    if OPTIMIZER not in store.groups:
        raise OptionError(f"{store.path} must have the group {OPTIMIZER}; collect it with --record {OPTIMIZER}")
    given = store.group(OPTIMIZER).attributes
    for name in _FACTS:
        if given.get(name) != sketches.facts[name]:
            raise OptionError(
                f"sketches of weights and moments must have one {name} ({SKETCHES}: {sketches.facts[name]}, {OPTIMIZER}: "
                f"{given.get(name)}); collect one of the groups again into a store of its own"
            )


def _pairs(names: list[str], reference: str) -> Iterator[tuple[str, str, str]]:
    """Each revision of a line, the one it is compared with, and the one from which the weights went, of these two."""
    for place, name in enumerate(names):
        if reference == "next":
            if place + 1 < len(names):
                yield name, names[place + 1], name
        else:
            before = names[place - 1] if place else ""
            other = {"first": names[0], "previous": before}.get(reference, reference)
            if other and other != name:
                yield name, other, other


def _of_pair(sketches: Sketches, name: str, other: str, origin: str) -> pl.DataFrame:
    here, there = sketches.of(name), sketches.of(other)
    row = sketches.store.row(OPTIMIZER, name)
    kept = (here.counts == there.counts) & (here.counts >= 0) & (row["status"] != Status.NOT_MEASURED)
    moment = row["exp_avg_sketch"].astype(np.float64)[kept]
    moved = (here.values - there.values)[kept] * (-1 if origin == name else 1)
    spread = here.at(kept).spread
    finite = np.isfinite(moment).all(axis=1) & np.isfinite(moved).all(axis=1)
    cosine, error = cosines(moment, moved, spread)
    few = concentrated(moment, spread) | concentrated(moved, spread)
    words = np.where(finite, STATUS_WORDS[Status.MEASURED], STATUS_WORDS[Status.NONFINITE]).tolist()
    numbers = {"cosine": cosine, "cosine_se": error}
    return pl.DataFrame({"revision": [name] * int(kept.sum()), "reference": [other] * int(kept.sum())}).hstack(
        [
            *sketches.labels.filter(pl.Series(kept)),
            *(pl.Series(label, np.where(finite, values, np.nan)).fill_nan(None) for label, values in numbers.items()),
            pl.Series("concentrated", few),
            pl.Series("status", words),
        ]
    )
