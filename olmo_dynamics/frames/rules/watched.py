"""The quantities that are searched for findings, with the words for them, and their series along each line of training.

>>> [each.line for each in lines_of(Grid(open_store("olmo2-1b.zarr")))]  # doctest: +SKIP
['stage1', 'stage2/ingredient1', 'stage2/ingredient2', 'stage2/ingredient3']
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import STATUS, Quantity

NOUNS = {
    "loss/cross_entropy": "the loss",
    "parameters/rms": "the RMS of the weights",
    "parameters/norm_sparsity": "the norm sparsity of the weights",
    "activations/rms": "the RMS of the residual stream",
    "activations/feature_kurtosis": "the feature kurtosis of the residual stream",
    "attention/entropy": "the entropy of attention",
    "attention/max_logit": "the largest attention logit",
    "attention/sink_mass": "the attention on the first position",
    "writes/write_ratio": "the relative size of writes to the residual stream",
    "induction/prefix_matching": "the prefix-matching score",
    "spectra/stable_rank": "the stable rank of the weights",
    "spectra/spectral_norm": "the spectral norm of the weights",
    "representations/rank_me": "the effective rank of representations",
    "gradients/total_l2_norm": "the gradient norm",
    "gradient_stream/l2_norm": "the gradient norm of the residual stream",
    "routing/load_imbalance": "the load imbalance of the experts",
    "logits/entropy": "the entropy of the predictions",
    "ngram/kl": "the divergence from the n-gram model",
    "optimizer/update_rms": "the RMS of the update",
}
"""Built-in quantities that are searched, each as a noun; of a group of one's own, every real number on its base axes is."""

_SEED = re.compile(r"(^|/)seed[^/]*")
_UNCERTAIN = re.compile(r"(_se|_low|_high|_bound|_without_first)$")


@dataclass(frozen=True, slots=True, eq=False)
class LineRows:
    """The revisions of one line of training, by step: names, steps, and their rows in the store's tables."""

    line: str
    names: tuple[str, ...]
    steps: Int[np.ndarray, " revisions"]
    rows: Int[np.ndarray, " revisions"]
    family: str = ""  # the same for lines that differ in their seed alone


@dataclass(frozen=True, slots=True, eq=False)
class WatchedSeries:
    """The numbers of one quantity along one line: a column for each measured cell, with the cell in words."""

    key: str
    noun: str
    line: LineRows
    values: Float[np.ndarray, "revisions cells"]
    cells: tuple[str, ...]


def lines_of(grid: Grid) -> list[LineRows]:
    """The lines of a store with the revisions that have a step, one per step."""
    found = []
    facts = grid.leading.with_row_index("place").filter(pl.col("step").is_not_null())
    for (line,), rows in facts.group_by(["line"], maintain_order=True):
        own = rows.unique("step", keep="first").sort("step")
        found.append(
            LineRows(
                str(line),
                tuple(own["revision"].to_list()),
                own["step"].to_numpy(),
                own["place"].to_numpy().astype(np.int64),
                _family(own.row(0, named=True)),
            )
        )
    return found


def _family(facts: Mapping[str, Any]) -> str:
    """The recipe, size and family of a line's run, where it tells them, and the line without its run and seed."""
    labels = [str(facts[name]) for name in ("recipe", "size", "family") if name in facts]
    line = str(facts["line"]).removeprefix(str(facts.get("run", "")))
    return "/".join([*labels, _SEED.sub("", line)])


def series_of(grid: Grid, lines: list[LineRows]) -> Iterator[WatchedSeries]:
    """Every searched quantity of a store along every line, over the revisions and cells where it is measured."""
    for group in grid.store.groups:
        for quantity in grid.store.quantities(group):
            yield from series_of_quantity(grid, quantity, lines)


def series_of_quantity(grid: Grid, quantity: Quantity, lines: list[LineRows]) -> Iterator[WatchedSeries]:
    """One quantity along every line, if it is searched."""
    noun = _noun(quantity, grid.store.group(quantity.group).axes)
    if not noun:
        return
    values, labels = _cells(grid, quantity)
    for line in lines:
        series = _along(quantity.key, noun, line, values, labels)
        if series is not None:
            yield series


def is_watched(quantity: Quantity, base: tuple[str, ...]) -> bool:
    """True for a quantity that is searched, given the base axes of its group."""
    return bool(_noun(quantity, base))


def _noun(quantity: Quantity, base: tuple[str, ...]) -> str:
    """The words for a quantity that is searched; empty for one that is not."""
    own = quantity.group not in GROUPS and quantity.axes == base and quantity.dtype.startswith("float")
    if own and quantity.name != STATUS and not _UNCERTAIN.search(quantity.name):
        return f"the {quantity.long_name or quantity.name.replace('_', ' ')}"
    return NOUNS.get(quantity.key, "")


def _cells(grid: Grid, quantity: Quantity) -> tuple[np.ndarray, list[str]]:
    """The numbers as [revision, cell], and the words for each cell."""
    values = grid.array(quantity.group, quantity.name).astype(np.float64)
    frames = [grid.store.axis(name) for name in quantity.axes]
    words = [""]
    for axis in frames:
        labels = axis.labels.tolist()
        words = [
            f"{before}{_SEPARATOR if before else ''}{_word(axis.name, each)}" for before in words for each in labels
        ]
    return values.reshape(len(values), -1), words


_SEPARATOR = ", "


def _word(axis: str, label: object) -> str:
    """One label of an axis in words."""
    if axis == "layer":
        return "outside the blocks" if label == NO_LAYER else f"block {label}"
    if axis in ("tensor", "embedding", "site"):
        return str(label)
    return f"{axis.replace('_', ' ')} {label}"


def _along(key: str, noun: str, line: LineRows, values: np.ndarray, labels: list[str]) -> WatchedSeries | None:
    """The numbers of one line: revisions where the quantity is measured, and cells that all of these have."""
    own = values[line.rows]
    if key.startswith("activations/") or key.startswith("representations/"):
        chosen = np.array([label.startswith(f"{Site.RESIDUAL_OUT.value},") for label in labels], dtype=bool)
        own = np.where(chosen, own, np.nan)
        labels = [label.removeprefix(f"{Site.RESIDUAL_OUT.value}, ") for label in labels]
    finite = np.isfinite(own)
    there = finite.any(axis=1)
    if there.sum() < 2:
        return None
    whole = finite[there].all(axis=0)
    kept = LineRows(
        line.line, tuple(np.array(line.names)[there].tolist()), line.steps[there], line.rows[there], line.family
    )
    cells = tuple(label for label, complete in zip(labels, whole, strict=True) if complete)
    return WatchedSeries(key, noun, kept, own[there][:, whole], cells) if cells else None
