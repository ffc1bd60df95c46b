"""The figures of a store of several runs: of each group some quantities, reduced to few lines per run.

A figure shows the numbers of a group in the middle layer of each run, or their mean or largest over heads, layers or other
labels, so that runs of different depth stand beside each other.

    >>> sorted({figure.group for figure in FIGURES})[:4]
    ['activations', 'attention', 'embeddings', 'evaluation']
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import per_revision, row_gradients
from olmo_dynamics.frames.grid import LEADING, RUN_LABELS
from olmo_dynamics.names import Site
from olmo_dynamics.quantities.declaration import STATUS, Group
from olmo_dynamics.reporting.drawing import Drawn

MIDDLE = "the middle layer of each run"
_BESIDE = ("expert",)  # of the experts of a layer the first is drawn
_PLAIN = {"gradients": "median gradient norm of a row", "distances": "relative distance from the first weights"}
_OF_THE_PLOT = ("site", "domain", "layer", "embedding")  # labels for which the plot chooses colours or panels
_MOST_PANELS = 24
_MOST_OWN = 3  # quantities that are drawn of a group without figures here


@dataclass(frozen=True, slots=True)
class SeedFigure:
    """One figure.

    Attributes:
        group: the group of the quantity.
        quantity: its name, also where it has a table of its own.
        title: the heading of its section.
        by: the labels that are kept apart; the first gives the panels.
        middle: True if only each run's middle layer, and what lies outside the blocks, counts.
        over: the labels that the values are reduced over, in words; empty where nothing is.
        largest: True if the largest value over these labels is drawn, not their mean.
        site: the one site that is drawn, where the group has sites.
        kind: `table` of the group, its numbers `per revision`, its `gradients` of embedding rows, or its `distances`.
    """

    group: str
    quantity: str
    title: str
    by: tuple[str, ...] = ()
    middle: bool = False
    over: str = ""
    largest: bool = False
    site: str = ""
    kind: str = "table"

    @property
    def key(self) -> str:
        """The quantity's key, `group/name`."""
        return f"{self.group}/{self.quantity}"

    @property
    def column(self) -> str:
        """The name of the drawn numbers: of those that no group declares, in words."""
        return _PLAIN.get(self.kind, self.quantity)

    @property
    def note(self) -> str:
        """The words for what is drawn of the quantity."""
        reduced = f"the {'largest' if self.largest else 'mean'} over {self.over}" if self.over else ""
        return ", ".join(filter(None, (reduced, MIDDLE if self.middle else "")))


_STREAM = Site.RESIDUAL_OUT.value
_EVERY = "layers and heads"

FIGURES = (
    SeedFigure("loss", "cross_entropy", "Loss by domain", ("domain",)),
    SeedFigure("loss", "bits_per_byte", "Bits per byte by domain", ("domain",)),
    SeedFigure("parameters", "rms", "Weight norms in the middle layer", ("role",), middle=True),
    SeedFigure("sketches", "relative", "Distance from the first weights", kind="distances"),
    SeedFigure("spectra", "stable_rank", "Stable ranks", ("role",), middle=True),
    SeedFigure("spectra", "spectral_norm", "The largest singular values", ("role",), middle=True),
    SeedFigure("head_spectra", "head_stable_rank", "Stable ranks of heads", ("role",), middle=True, over="heads"),
    SeedFigure("optimizer", "update_rms", "The state of the optimiser", ("role",), middle=True),
    SeedFigure("embeddings", "row_rms", "Embedding rows", ("embedding",)),
    SeedFigure("activations", "rms", "The residual stream in the middle layer", ("layer",), middle=True, site=_STREAM),
    SeedFigure("activations", "feature_kurtosis", "Outliers in the residual stream: kurtosis over features", ("layer",),
               middle=True, site=_STREAM),
    SeedFigure("outliers", "llmint8_count", "Outlier features"),
    SeedFigure("outliers", "massive_top3", "Massive activations", over="layers", largest=True),
    SeedFigure("attention", "entropy_normalised", "Attention entropy", over=_EVERY),
    SeedFigure("attention", "sink_mass", "Attention sinks", over=_EVERY),
    SeedFigure("attention", "max_logit", "Attention logits", over=_EVERY, largest=True),
    SeedFigure("writes", "write_ratio", "Writes to the residual stream", ("part",), middle=True),
    SeedFigure("lens", "top1_agreement", "The logit lens", middle=True, over="domains"),
    SeedFigure("induction", "prefix_matching", "Induction", over=_EVERY, largest=True),
    SeedFigure("ngram", "kl", "Unigrams and bigrams", ("order",)),
    SeedFigure("representations", "rank_me", "Dimensions that representations use", ("layer",), middle=True, site=_STREAM),
    SeedFigure("logits", "top_probability", "Confidence of the predictions"),
    SeedFigure("logits", "entropy", "Logits of the head"),
    SeedFigure("routing", "load_imbalance", "Load over experts in the middle layer", middle=True),
    SeedFigure("experts", "mean_cosine", "Likeness of experts", ("matrix",), middle=True),
    SeedFigure("gradients", "total_l2_norm", "Total gradient norm", kind="per revision"),
    SeedFigure("gradients", "probe_l2_norm", "Gradient norms", ("role",), middle=True),
    SeedFigure("gradient_stream", "l2_norm", "Gradients of the residual stream", ("layer",), middle=True),
    SeedFigure("gradient_rows", "row_l2", "Gradients of embedding rows", ("embedding",), kind="gradients"),
    SeedFigure("evaluation", "accuracy", "Scores of tasks", ("task",)),
    SeedFigure("evaluation", "bits_per_byte", "Bits per byte of the right answers", ("task",)),
)  # fmt: skip
"""The figures of the built-in groups, in the order of a report."""


def figures_of(store: Drawn) -> Iterator[SeedFigure]:
    """The figures of the groups that a store has, then those of groups of one's own; without quantities that do not compare."""
    for figure in FIGURES:
        if figure.group in store.groups and (
            figure.kind == "distances" or figure.quantity in store.store.group(figure.group)
        ):
            yield figure
    known = {figure.group for figure in FIGURES} | {"tokens"}  # single tokens of one probe say nothing over seeds
    for name in store.groups:
        if name not in known:
            yield from _own_figures(store.store.group(name))


def _own_figures(group: Group) -> Iterator[SeedFigure]:
    """Figures by declaration: the first quantities on the group's base axes, panels by the first axis beside the layers."""
    drawn = [each for each in group.quantities if each.axes == group.axes and each.name != STATUS][:_MOST_OWN]
    others = tuple(axis for axis in group.axes if axis != "layer")
    for quantity in drawn:
        title = (quantity.long_name or quantity.name.replace("_", " ")).capitalize()
        over = " and ".join(f"{axis}s" for axis in others[1:])
        yield SeedFigure(group.name, quantity.name, title, others[:1], "layer" in group.axes, over)


def figure_rows(store: Drawn, figure: SeedFigure) -> pl.DataFrame:
    """The rows of a figure: one per revision and label of `by`, with the numbers in the figure's column.

    Raises:
        OptionError: no value of the quantity is there.
    """
    rows = _table(store, figure)
    if figure.site:
        rows = rows.filter(pl.col("site") == figure.site)
    for name in _BESIDE:
        if name in rows.columns and name not in figure.by:
            rows = rows.filter(pl.col(name).fill_null(0) == 0)
    if figure.middle:
        rows = middle_layer(rows)
    rows = rows.filter(pl.col(figure.column).cast(pl.Float64).is_finite())
    if rows.is_empty():
        raise OptionError(f"it needs values of {figure.key} (got none)")
    leading = [name for name in (*LEADING, *RUN_LABELS) if name in rows.columns]
    beside = ["layer"] if figure.middle and "role" not in figure.by else []
    kept = [name for name in ("site", "tensor", *figure.by, *beside) if name in rows.columns]
    value = pl.col(figure.column)
    reduced = value.max() if figure.largest else value.mean()
    return _worded(figure, rows.group_by(*leading, *dict.fromkeys(kept), maintain_order=True).agg(reduced))


def _table(store: Drawn, figure: SeedFigure) -> pl.DataFrame:
    """The table that holds a figure's numbers, in its column."""
    if figure.kind == "per revision":
        return store.only(per_revision(store.store, figure.group))
    if figure.kind == "gradients":
        middle = row_gradients(store.store).filter(pl.col("quantile") == 0.5)
        return store.only(middle.drop("quantile").rename({"value": figure.column}))
    if figure.kind == "distances":
        moved = store.displacement(by="all").rename({figure.quantity: figure.column})
        lacking = [each for each in RUN_LABELS if each in store.chosen.columns and each not in moved.columns]
        labels = store.chosen.select("revision", *lacking)
        return moved.join(labels, on="revision", how="left", maintain_order="left")
    if store.store.quantity(figure.group, figure.quantity).axes == store.store.group(figure.group).axes:
        return store.table(figure.group)
    return store.table(f"{figure.group}.{figure.quantity}").rename({"value": figure.column})


def middle_layer(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of each run's middle layer, and those outside the blocks."""
    layers = frame.drop_nulls("layer").group_by("run").agg(middle=pl.col("layer").unique().sort())
    middle = layers.with_columns(pl.col("middle").list.get(pl.col("middle").list.len() // 2))
    placed = frame.join(middle, on="run", how="left", maintain_order="left")
    return placed.filter(pl.col("layer").is_null() | (pl.col("layer") == pl.col("middle"))).drop("middle")


def _worded(figure: SeedFigure, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with numbered panels in words, since a bare number says little above a panel."""
    name = panels(figure, rows)
    if not name or not rows[name].dtype.is_numeric():
        return rows
    return rows.with_columns(pl.format(f"{name.replace('_', ' ')} {{}}", name).alias(name))


def panels(figure: SeedFigure, rows: pl.DataFrame) -> str | None:
    """The column that splits a figure into panels, None where the plot decides."""
    first = figure.by[0] if figure.by else ""
    several = bool(first) and first not in _OF_THE_PLOT and 1 < rows[first].n_unique() <= _MOST_PANELS
    return first if several else None
