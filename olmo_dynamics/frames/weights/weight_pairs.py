"""The distance and the cosine of every pair of revisions: which parts of training are near each other, and which runs.

>>> pairs = pairwise(open_store("run.zarr"))  # doctest: +SKIP
>>> pairs.filter(revision="step1000").select("other_step", "distance", "distance_se")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float

from olmo_dynamics.frames.weights.sketch_stack import RUN, Stack, Stores, require_group

Grams = Float[np.ndarray, "tensor revision revision"]
Pairs = Float[np.ndarray, "revision revision"]

_OTHER = (RUN, "revision", "line", "step", "tokens", "position_step", "position_tokens", "layer")


def pairwise(store: Stores, by: Literal["all", "layer", "role"] = "all") -> pl.DataFrame:
    """The distance, cosine and angle between every two revisions of a store, or of several, from their sketches.

    Args:
        store: a store with the group `sketches`; or a list of them, or a dict by name, such as a run and its forks or two
            seeds. Tensors that some revision lacks or has in another size, or that hold NaN or Inf, are left out.
        by: `all`, `layer` or `role`: the tensors that are one long vector.

    Returns:
        One row per group and ordered pair: the leading columns of one revision (of several stores, their name as `run`); of
        the other `other_revision`, `other_line`, `other_step`, `other_tokens` and so on; `group` (`all`, a layer's number or
        a role); `distance` (weight units), `cosine` and `angle` (radians), each with its standard error in `_se`. The
        distance of near revisions is known to about 1e-7 of the weights at best.

    Raises:
        OptionError: the stores have no sketches of two revisions, or such that cannot be compared, or `by` has another value.
    """
    require_group(by)
    stack = Stack.of(store)
    both, frames = ordered_pairs(stack.leading), []
    for group, members in stack.groups(by):
        values = stack.values[:, members].transpose(1, 0, 2)
        variance = 2 * stack.spread[members] / values.shape[2]
        numbers = pair_numbers(values @ values.transpose(0, 2, 1), variance)
        columns = [pl.Series(name, found.reshape(-1)).fill_nan(None) for name, found in numbers.items()]
        frames.append(both.with_columns(pl.lit(group).alias("group"), *columns))
    return pl.concat(frames)


def ordered_pairs(leading: pl.DataFrame) -> pl.DataFrame:
    """Every ordered pair of rows: the columns of one, and those that tell the other, as `other_revision` and so on."""
    shown = [name for name in _OTHER if name in leading.columns]
    others = leading.select(pl.col(shown).name.prefix("other_"))
    return leading.join(others, how="cross", maintain_order="left_right")


def pair_numbers(grams: Grams, variance: Float[np.ndarray, " tensor"]) -> dict[str, Pairs]:
    """Distance, cosine and angle of every pair, from the dot products of each tensor; variances of tensors add up."""
    squares = np.einsum("trr->tr", grams)
    moved = np.maximum(squares[:, :, None] + squares[:, None, :] - 2 * grams, 0)
    distance = np.sqrt(moved.sum(axis=0))
    norm = np.sqrt(squares.sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(np.einsum("t,trs->rs", variance, moved**2)) / 2 / distance
        unit = grams / np.outer(norm, norm)
        own = np.einsum("trr->tr", unit)
        apart, together = (own[:, :, None] + own[:, None, :] + sign * 2 * unit for sign in (-1, 1))
        p, q = apart.sum(axis=0), together.sum(axis=0)
        angle = 2 * np.arctan2(np.sqrt(np.maximum(p, 0)), np.sqrt(np.maximum(q, 0)))
        a, b, across = apart / p, together / q, (own[:, :, None] - own[:, None, :]) ** 2 / (p * q)
        ratio = np.sqrt(np.einsum("t,trs->rs", variance, np.maximum(a**2 + b**2 - 2 * across, 0)))
    at_once = np.eye(len(norm), dtype=bool)
    angle_se = np.where(at_once, 0, np.abs(np.sin(angle)) / 2 * ratio)
    return {
        "distance": np.where(at_once, 0, distance),
        "distance_se": np.where(distance > 0, error, 0),
        "cosine": np.where(at_once, 1, 1 - p / 2),
        "cosine_se": np.abs(np.sin(angle)) * angle_se,
        "angle": np.where(at_once, 0, angle),
        "angle_se": angle_se,
    }
