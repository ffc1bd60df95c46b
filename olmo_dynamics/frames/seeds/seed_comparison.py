"""Differences of a quantity between two trainings, paired by seed and step.

    >>> losses = od.join(["c4.zarr", "dclm.zarr"]).table("loss")                           # doctest: +SKIP
    >>> found = od.compare({"c4": losses.filter(recipe="c4"), "dclm": losses.filter(recipe="dclm")}, "loss/bits_per_byte")
    ... # doctest: +SKIP
    >>> found.differences.select("step", "domain", "difference", "p_value")                # doctest: +SKIP

The seeds of both sides are pairs, so what a seed does to both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError, counted
from olmo_dynamics.frames.grid import LEADING, RUN_LABELS
from olmo_dynamics.frames.joining.comparable import Probes
from olmo_dynamics.frames.joining.joined_store import JoinedStore
from olmo_dynamics.frames.joining.open_stores import open_store
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.frames.seeds.paired_tests import LEAST_SEEDS, MOST_EXACT, sign_flips, t_test
from olmo_dynamics.quantities import known_axes

Side = RecordedStore | pl.DataFrame | str | Path
_Held = RecordedStore | pl.DataFrame

_ENOUGH = 6
"""The number of pairs from which on flips of signs can give p < 0.05."""

_COORDINATES = ("layer", "role", "expert", "domain")


@dataclass(frozen=True)
class SeedComparison:
    """The differences between two trainings, a - b.

    `differences` has one row per step and labels of the quantity's axes: `seeds` (the number of pairs), the means `a` and `b`,
    `difference` with its standard error `difference_se` and its 95 % interval `low` to `high`, `t` and `p_value` of the paired t
    test, and `p_sign_flip`. `pairs` has one row per pair. `notes` says in plain lines what was left out, and whether there are
    too few seeds.
    """

    differences: pl.DataFrame
    pairs: pl.DataFrame
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([str(self.differences), *self.notes])

    __repr__ = __str__


def compare(
    a: Side | Mapping[str, Side], b: Side | None = None, quantity: str = "", *, x: str = "step"
) -> SeedComparison:
    """Compare a quantity of two trainings by its differences over seeds, at each step that both have.

    Args:
        a: a store, joined or not, or its path, or rows of one of its tables, such as those of one recipe; or a mapping of
            the two sides by name.
        b: the other side; with a mapping, the quantity.
        quantity: `group/name` such as `loss/bits_per_byte`; of tables, the name of the column.
        x: the column that must agree, `step` or `tokens`.

    Returns:
        The differences a - b of pairs with the same seed and step. With one pair, difference alone is known.

    Raises:
        OptionError: there are not two sides, no such quantity, no pair, a side has several values for one seed and step, or the
            quantity does not compare across the tokenizers or texts of the two stores.
        StoreError: a store has no such group.
    """
    named, key = _sides(a, b, quantity)
    require_comparable(list(named.values()), key)
    name = key.rpartition("/")[2]
    frames = {side: _values(held, side, key, x) for side, held in named.items()}
    (first, mine), (second, theirs) = frames.items()
    by = [column for column in mine.columns if column in theirs.columns and column != "value"]
    pairs = mine.join(theirs, on=by, how="inner", nulls_equal=True, suffix="_b", maintain_order="left")
    pairs = pairs.select(*by, pl.col("value").alias("a"), pl.col("value_b").alias("b"))
    if pairs.is_empty():
        raise OptionError(
            f"compare() needs seeds and steps that both sides have: {first} has {_told(mine, x)}, {second} has {_told(theirs, x)}"
        )
    finite = pairs.filter(pl.col("a").is_finite() & pl.col("b").is_finite())
    finite = finite.with_columns((pl.col("a") - pl.col("b")).alias("difference"))
    return SeedComparison(
        _tested(finite, by, name), finite, tuple(_notes(finite, frames, pairs.height - finite.height))
    )


def _sides(a: Side | Mapping[str, Side], b: Side | None, quantity: str) -> tuple[dict[str, _Held], str]:
    """The two sides by name, with paths opened, and the quantity."""
    if isinstance(a, Mapping):
        if len(a) != 2:
            raise OptionError(f"compare() needs two sides (got {len(a)}: {', '.join(a)})")
        named, key = dict(a), b if isinstance(b, str) else quantity
    elif b is None or (not quantity and isinstance(b, str)):
        raise OptionError("compare() needs two sides: compare(a, b, quantity) or compare({'a': a, 'b': b}, quantity)")
    else:
        named, key = {"a": a, "b": b}, quantity
    if not key:
        raise OptionError("compare() needs a quantity such as 'loss/bits_per_byte' (got none)")
    return {name: open_store(each) if isinstance(each, str | Path) else each for name, each in named.items()}, key


def require_comparable(sides: Sequence[RecordedStore | pl.DataFrame], key: str) -> None:
    """Check that the numbers of several stores compare at all.

    Raises:
        OptionError: they do not, since tokenizers or texts differ, or the key names no group.
    """
    stores = [side for side in sides if isinstance(side, RecordedStore)]
    group, _, name = key.partition("/")
    if not name and stores:
        raise OptionError(f"quantity of a store must be group/name such as loss/bits_per_byte (got {key!r})")
    if len(stores) < 2:
        return
    every = [
        each
        for store in stores
        for each in ([run.store for run in store.runs] if isinstance(store, JoinedStore) else [store])
    ]
    if reason := Probes.of(every).reason(stores[0].quantity(group, name)):
        raise OptionError(f"{key} of these stores does not compare: {reason}")


def _values(side: _Held, name: str, key: str, x: str) -> pl.DataFrame:
    """Seed, time, labels and value of one side."""
    group, _, column = key.rpartition("/")
    frame = side if isinstance(side, pl.DataFrame) else _table(side, group, column)
    column = "value" if column not in frame.columns and "value" in frame.columns else column
    for each in ("revision", x, column):
        if each not in frame.columns:
            raise OptionError(f"the table of {name} must have a column {each!r} (got {', '.join(frame.columns)})")
    if "seed" not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.String).alias("seed"))
    axes = {*known_axes(), *_COORDINATES, "stage", "ingredient"} - {column}
    labels = [each for each in frame.columns if each in axes]
    keys = ["seed", x, *labels]
    found = frame.filter(pl.col(x).is_not_null() & pl.col(column).is_not_null())
    found = found.select(*keys, pl.col(column).cast(pl.Float64).alias("value"))
    if found.select(keys).is_duplicated().any():
        apart = [each for each in (*RUN_LABELS, "line") if each in frame.columns and frame[each].n_unique() > 1]
        raise OptionError(
            f"compare() needs one value per seed and {x} in {name} (got several, which differ in "
            f"{', '.join(apart) or 'no label'}); filter its table to one training"
        )
    return found


def _table(store: RecordedStore, group: str, name: str) -> pl.DataFrame:
    """The table of a store that holds a quantity."""
    quantity = store.quantity(group, name)
    base = quantity.axes == store.group(group).axes
    frame = store.table(group if base else f"{group}.{name}")
    others = [each.name for each in store.quantities(group) if each.name != name]
    return frame.drop(each for each in others if each in frame.columns and each not in LEADING)


def _tested(pairs: pl.DataFrame, by: list[str], name: str) -> pl.DataFrame:
    """One row per cell; cells with the same seeds are tested together."""
    cells = [column for column in by if column != "seed"]
    grouped = pairs.group_by(cells, maintain_order=True).agg(
        "a", "b", "difference", pl.len().cast(pl.Int64).alias("seeds")
    )
    grouped = grouped.with_row_index("cell")
    parts = []
    for part in grouped.partition_by("seeds", maintain_order=True):
        differences = np.array(part["difference"].to_list(), dtype=np.float64).T
        test = t_test(differences)
        parts.append(
            part.select(
                "cell", *cells, "seeds", pl.col("a").list.mean(), pl.col("b").list.mean(),
                pl.Series("difference", test.mean), pl.Series("difference_se", test.se), pl.Series("low", test.low),
                pl.Series("high", test.high), pl.Series("t", test.t), pl.Series("p_value", test.p_value),
                pl.Series("p_sign_flip", sign_flips(differences)),
            )
        )  # fmt: skip
    found = pl.concat(parts).sort("cell").drop("cell")
    return found.with_columns(
        pl.lit(name).alias("quantity"),
        pl.col("difference_se", "low", "high", "t", "p_value", "p_sign_flip").fill_nan(None),
    )


def _notes(pairs: pl.DataFrame, frames: Mapping[str, pl.DataFrame], not_finite: int) -> list[str]:
    notes = []
    seeds = pairs["seed"].n_unique()
    if seeds < LEAST_SEEDS:
        notes.append(
            f"Too few seeds: both sides share {counted(seeds, 'seed')}, and a test needs at least {LEAST_SEEDS}."
        )
    elif seeds < _ENOUGH:
        notes.append(
            f"Few seeds: with {seeds} pairs no flip of signs gives a p-value below {2 / 2**seeds:g}, and the t test rests on "
            "normally distributed differences."
        )
    elif seeds > MOST_EXACT:
        notes.append(f"Of the flips of signs of {seeds} pairs, 9,999 were drawn.")
    for side, frame in frames.items():
        lone = sorted({str(each) for each in frame["seed"].unique() if each not in set(pairs["seed"])})
        if lone:
            notes.append(f"Left out of {side}, since the other side lacks them: seeds {', '.join(lone)}.")
    if not_finite:
        notes.append(f"Left out: {counted(not_finite, 'pair')} with a value that is not finite.")
    return notes


def _told(frame: pl.DataFrame, x: str) -> str:
    seeds = ", ".join(str(each) for each in frame["seed"].unique().sort()[:5])
    return f"seeds {seeds or 'none'} and {frame[x].n_unique()} values of {x}"
