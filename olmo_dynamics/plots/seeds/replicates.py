"""Means and spreads over seeds: of each training, time and series, over all its seeds.

>>> import polars as pl
>>> runs = {"run": ["a", "b"], "recipe": ["c4", "c4"], "seed": ["1", "2"], "revision": ["a@x", "b@x"]}
>>> over_seeds(pl.DataFrame({**runs, "step": [10, 10], "rms": [1.0, 3.0]}), "rms", "step", []).select("rms", LOWER).row(0)
(2.0, 0.585786)
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.table import PARTS

TRAINING, KIND, LOWER, UPPER, SEEDS = "training", "kind", "lower", "upper", "seeds"
"""Added columns: the labels of a training but for its seed; `seed` or `mean`; the ends of the band; the number of seeds."""

ONE_SEED, MEAN = "seed", "mean"

RUN_LABELS = ("recipe", "size", "family")
BRANCH = "branch"
"""The added column of the phase of post-training that a row belongs to; null in a base."""

_PARTS_OF_LINE = {"stage": "stage{}", "ingredient": "ingredient{}", BRANCH: "{}"}
_OF_RUNS = ("phase", "phase_number", "starts_from")


def is_joined(frame: pl.DataFrame) -> bool:
    """True if a table holds several joined runs, or several seeds of one."""
    needed = {"run", "recipe", "seed"}
    return needed <= set(frame.columns) and frame.select("run", "seed").n_unique() > 1


def with_training(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with the column `training`: those of recipe, size and family that have several values."""
    several = [name for name in RUN_LABELS if name in frame.columns and frame[name].n_unique() > 1]
    words = pl.concat_str([pl.col(name) for name in several] or [pl.lit("")], separator=PARTS, ignore_nulls=True)
    return frame.with_columns(words.alias(TRAINING))


def over_seeds(frame: pl.DataFrame, value: str, x: str, labels: Sequence[str]) -> pl.DataFrame:
    """The mean over seeds and the band mean ± one standard deviation (n - 1), where every seed of the training has a value.

    One row per training, stage, phase, time and series of `labels`; of one seed, its value without a band.
    """
    named = frame if TRAINING in frame.columns else with_training(frame)
    strand = [TRAINING, *(name for name in _PARTS_OF_LINE if name in named.columns)]
    series = [name for name in labels if name not in strand]
    times = ("step", "tokens", "position_step", "position_tokens")
    also = ("run", *_OF_RUNS) if BRANCH in named.columns else ()
    others = [name for name in (*times, *also) if name in named.columns and name != x]
    replicate = pl.struct("run", "seed")
    # Numbers of seeds are those of the whole series: a mean over fewer of them would jump.
    counted = named.with_columns(replicate.n_unique().over([*strand, *series]).alias("all_seeds"))
    found = counted.group_by([*strand, x, *series], maintain_order=True).agg(
        *(pl.col(name).first() for name in (*others, "all_seeds")),
        replicate.n_unique().alias(SEEDS),
        pl.col(value).mean(),
        pl.col(value).std().alias("deviation"),
        pl.col("revision").first().alias("name"),
    )
    kept = found.filter(pl.col(SEEDS) == pl.col("all_seeds"))
    parts = [pl.col(TRAINING).replace("", None), *(pl.format(_PARTS_OF_LINE[name], name) for name in strand[1:])]
    ends = {LOWER: pl.col(value) - pl.col("deviation"), UPPER: pl.col(value) + pl.col("deviation")}
    return kept.with_columns(
        pl.concat_str(parts, separator="/", ignore_nulls=True).alias(LINE),
        pl.when(pl.col(SEEDS) > 1).then(pl.format("mean over {} seeds", SEEDS)).otherwise("name").alias("revision"),
        pl.lit(MEAN).alias(KIND),
        **{name: end.round_sig_figs(6) for name, end in ends.items()},
    ).drop("deviation", "all_seeds", "name")
