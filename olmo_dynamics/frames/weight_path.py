"""The path of a run through weight space, drawn on the plane in which it moves most.

>>> path = trajectory(open_store("run.zarr"))  # doctest: +SKIP
>>> path.filter(component=1).select("step", "coordinate", "share", "share_se")  # doctest: +SKIP

Principal components of one path tell its shape and no mechanism: a random walk in many dimensions gives smooth curves too
(Antognini and Sohl-Dickstein 2018, arXiv:1806.08805).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.sketched import SKETCHES, Sketches
from olmo_dynamics.store import Store

PARTS = 32
"""Parts of the components that the jackknife leaves out in turn."""

Grams = Float[np.ndarray, "part revision revision"]


def trajectory(store: Store, by: Literal["all", "layer", "role"] = "all", *, components: int = 3) -> pl.DataFrame:
    """Principal components of a store's revisions, from the dot products of their sketches.

    With rows θ_r of all tensors (or of those of one layer or role) as one vector each, less their mean over revisions, the
    coordinate of revision r on component c is sqrt(λ_c) V[r, c] for eigenvectors V of the revisions' Gram matrix. The share
    is λ_c over the sum of all λ.

    Args:
        store: a store with the group `sketches`; tensors that some revision lacks or has in another size, or that hold NaN or
            Inf, are left out.
        by: `all`, `layer` or `role`.
        components: the number of components.

    Returns:
        One row per group, component and revision: the leading columns, `group` (`all`, a layer's number or a role),
        `component` (from 1), `coordinate` (weight units; the sign is chosen so that the last revision's is positive),
        `share`, and `share_se`, a jackknife over parts of the sketches.

    Raises:
        OptionError: the store has no sketches of three revisions, or an option has another value.
    """
    if by not in ("all", "layer", "role"):
        raise OptionError(f"by must be all, layer or role (got {by!r})")
    sketches = Sketches(store)
    leading = Grid(store).leading.filter(
        pl.col("revision").is_in([n for n in store.done if SKETCHES in store.recorded(n)])
    )
    if not 1 <= components < max(2, len(leading)):
        raise OptionError(
            f"components must be between 1 and {len(leading) - 1}, fewer than revisions (got {components})"
        )
    if len(leading) < 3:
        raise OptionError(f"{store.path} must hold sketches of at least 3 revisions (got {len(leading)})")
    held = list(map(sketches.of, leading["revision"]))
    values, counts = np.stack([each.values for each in held]), held[0].counts
    same = np.all([each.counts == counts for each in held], axis=0) & (counts >= 0)
    whole = same & np.isfinite(values).all(axis=(0, 2))
    frames = [
        _of_group(leading, group, values[:, members & whole], held[0].spread[members & whole], components)
        for group, members in _groups(sketches, by)
        if (members & whole).any()
    ]
    return pl.concat(frames)


def _groups(sketches: Sketches, by: str) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each group, and by tensor, whether it belongs to it."""
    if by == "all":
        yield "all", np.ones(len(sketches.tensors), dtype=bool)
        return
    labels = sketches.coordinates[by]
    for label in dict.fromkeys(labels.tolist()):
        if label != -1:
            yield str(label), labels == label


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
