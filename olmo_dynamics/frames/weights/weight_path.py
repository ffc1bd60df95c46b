"""The path of a run through weight space, drawn on the plane in which it moves most.

>>> path = trajectory(open_store("run.zarr"))  # doctest: +SKIP
>>> path.filter(component=1).select("step", "coordinate", "share", "share_se")  # doctest: +SKIP

Principal components of one path tell its shape and no mechanism: a random walk in many dimensions gives smooth curves too
(Antognini and Sohl-Dickstein 2018, arXiv:1806.08805).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.weights.sketch_stack import Stack, Stores, require_group

PARTS = 32
"""Parts of the components that the jackknife leaves out in turn."""

Grams = Float[np.ndarray, "part revision revision"]


def trajectory(store: Stores, by: Literal["all", "layer", "role"] = "all", *, components: int = 3) -> pl.DataFrame:
    """Principal components of a store's revisions, or of several stores', from the dot products of their sketches.

    With rows θ_r of all tensors (or of those of one layer or role) as one vector each, less their mean over revisions, the
    coordinate of revision r on component c is sqrt(λ_c) V[r, c] for eigenvectors V of the revisions' Gram matrix. The share
    is λ_c over the sum of all λ.

    Args:
        store: a store with the group `sketches`; or a list of them, or a dict by name, such as a run and its forks or two
            seeds, whose revisions are then points of one plane. Tensors that some revision lacks or has in another size, or
            that hold NaN or Inf, are left out.
        by: `all`, `layer` or `role`.
        components: the number of components.

    Returns:
        One row per group, component and revision: of several stores, their name as `run`; the leading columns, `group`
        (`all`, a layer's number or a role), `component` (from 1), `coordinate` (weight units; the sign is chosen so that the
        last revision's is positive), `share`, and `share_se`, a jackknife over parts of the sketches.

    Raises:
        OptionError: the stores have no sketches of three revisions, or such that cannot be compared, or an option has another
            value.
    """
    require_group(by)
    stack = Stack.of(store, least=3)
    if not isinstance(components, int) or not 1 <= components < len(stack.leading):
        raise OptionError(
            f"components must be between 1 and {len(stack.leading) - 1}, fewer than revisions (got {components})"
        )
    frames = [
        _of_group(stack.leading, group, stack.values[:, members], stack.spread[members], components)
        for group, members in stack.groups(by)
    ]
    return pl.concat(frames)


def _of_group(
    leading: pl.DataFrame, group: str, values: np.ndarray, spread: np.ndarray, components: int
) -> pl.DataFrame:
    exact, parts = _grams(values, spread)
    weights, vectors = _principal(exact + parts.sum(axis=0))
    left_out = [_principal(exact + (parts.sum(axis=0) - part) * PARTS / (PARTS - 1))[0] for part in parts]
    shares = np.array([each[:components] / each.sum() for each in left_out])
    factor = float(
        (spread * np.einsum("rtk,rtk->t", values, values)).sum()
        / np.maximum(np.einsum("rtk,rtk->", values, values), 1e-300)
    )
    error = np.sqrt((PARTS - 1) / PARTS * ((shares - shares.mean(axis=0)) ** 2).sum(axis=0) * min(1.0, factor))
    coordinates = vectors[:, :components] * np.sqrt(weights[:components])
    coordinates *= np.where(coordinates[-1] < 0, -1, 1)
    return pl.concat(
        leading.with_columns(
            pl.lit(group).alias("group"),
            pl.lit(place + 1).alias("component"),
            pl.Series("coordinate", coordinates[:, place]),
            pl.lit(weights[place] / weights.sum()).alias("share"),
            pl.lit(error[place]).alias("share_se"),
        )
        for place in range(components)
    )


def _grams(values: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, Grams]:
    """Dot products of revisions over tensors that their sketches hold exactly, and over each part of the others' components."""
    centred = values - values.mean(axis=0)
    exact, drawn = centred[:, spread == 0], centred[:, spread > 0]
    parts = [drawn[..., place::PARTS] for place in range(PARTS)]
    return np.einsum("rtk,stk->rs", exact, exact, optimize=True), np.array(
        [np.einsum("rtk,stk->rs", part, part, optimize=True) for part in parts]
    )


def _principal(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, at least 0 and the largest first, and eigenvectors in columns."""
    weights, vectors = np.linalg.eigh(gram)
    return np.maximum(weights[::-1], 0), vectors[:, ::-1]
