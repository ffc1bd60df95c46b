"""The part of a store that a report draws, and its charts: all with one time axis, each with the reason if there is none.

>>> store = Drawn(open_store("olmo2-1b.zarr"), Choice(x="tokens"))  # doctest: +SKIP
>>> store.section("Norms", lambda: store.draw(plots.trajectory, store.table("parameters"), "rms"), captions.WEIGHT_CURVES)
... # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.errors import OlmoDynamicsError
from olmo_dynamics.frames import RecordedStore, births, displacement, pairwise, thin, trajectory
from olmo_dynamics.plots import AnyChart, Style
from olmo_dynamics.plots.axes import time_scale
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.lines import time_column
from olmo_dynamics.plots.page import Section
from olmo_dynamics.plots.theme import WORDS
from olmo_dynamics.plots.titles import THINGS, notice, quantity_of
from olmo_dynamics.reporting.choice import Choice
from olmo_dynamics.reporting.sentences import Told, sentence

MAX_ROWS = 10_000
"""The rows of a chart of lines above which it keeps only the extremes: some fifty for each of two hundred lines."""

MAX_CELLS = 12_000
"""The cells of a map above which it keeps evenly spaced revisions; more than the pixels of a page can show."""

_MENU = 4  # times so many cells are held by a map with a menu, which shows those of one entry at a time

MAX_REVISIONS = 240
"""The revisions above which a chart that is computed from whole ones keeps those with the extremes."""


class Drawn:
    """A store seen through the revisions and tensors that are drawn.

    Raises:
        StoreError: the store holds no finished revision.
        SelectionError: the choice of revisions is invalid or matches none.
        OptionError: the choice of tensors matches none, or no revision has tokens to draw against.
    """

    def __init__(self, store: RecordedStore, choice: Choice | None = None) -> None:
        self.store, self.attributes, self.groups = store, store.attributes, store.groups
        self.choice = choice or Choice()
        self.chosen = self.choice.revisions_of(store)
        self._tensors = self.choice.tensors_of(store)

    @cached_property
    def revisions(self) -> list[str]:
        """The revisions that are drawn: those with a step, one per step of a line; all of them if none has a step."""
        return self._placed["revision"].to_list()

    @property
    def has_steps(self) -> bool:
        """True if some revision has a place in training."""
        return bool(self.chosen["step"].is_not_null().any())

    @property
    def over_time(self) -> bool:
        """True if several revisions have a place in training, so that curves and maps over time say something."""
        return self.has_steps and len(self.revisions) > 1

    @property
    def left_out(self) -> dict[str, str]:
        """The chosen revisions that are not drawn, with the reasons."""
        without = self.chosen.filter(~pl.col("revision").is_in(self.revisions))
        return {
            name: "has no step" if step is None else "has another's step"
            for name, step in without.select("revision", "step").iter_rows()
        }

    @property
    def probe_tokens(self) -> int | None:
        """The number of tokens of the probe; None without one."""
        probe = self.attributes.get("probe") or {}
        return probe.get("tokens")

    @cached_property
    def style(self) -> Style:
        """The style of every chart: the scale of the time axis that suits all drawn revisions."""
        if not self.has_steps:
            return Style()
        field = time_column(self._placed, self.choice.x)
        scale = time_scale(self._placed, field)
        return Style(x_scale=scale.kind, x_constant=scale.constant)

    def table(self, name: str) -> pl.DataFrame:
        """One table of the store."""
        return self.only(self.store.table(name))

    def births(self, threshold: float) -> pl.DataFrame:
        """The outlier features, with `threshold` in units of a token's own RMS."""
        return self.only(births(self.store, threshold=threshold, relative=True))

    def displacement(
        self, *, by: Literal["tensor", "layer", "role", "all"] = "tensor", reference: str = "first"
    ) -> pl.DataFrame:
        """The displacement of the weights, or of the chosen tensors, from the first of each line."""
        tensors = () if self._tensors is None else self._tensors
        return self.only(displacement(self.store, reference, by=by, tensors=tensors))

    def path(self) -> pl.DataFrame:
        """The principal components of the revisions' weights."""
        return self.only(trajectory(self.store))

    def pairs(self, revisions: list[str]) -> pl.DataFrame:
        """The distances of every two of some revisions."""
        return pairwise(self.store).filter(
            pl.col("revision").is_in(revisions), pl.col("other_revision").is_in(revisions)
        )

    def draw(
        self,
        chart: Callable[..., AnyChart],
        frame: pl.DataFrame,
        *words: str,
        note: str = "",
        probe: bool = False,
        facet: str | None = None,
        told: Told | str | None = None,
    ) -> AnyChart:
        """A chart over time, with a sentence about its numbers; of very many rows, fewer are drawn, with a note that counts them.

        Of lines, the extremes are kept; of maps, evenly spaced revisions; of what a chart computes from whole revisions, those
        with the extremes. The sentence is `told`, or is about the column that it names, or else about the first of `words`; it is
        made of all rows.
        """
        said = _said(frame, told or (Told(words[0], _noun(frame, words[0])) if words else None))
        thinned = ""
        if _plain(chart) in _WHOLE:
            frame, thinned = self.fewer_revisions(frame, entries=_entries(chart, frame))
        elif _plain(chart) not in _CHOOSING:
            frame, thinned = _thinned(frame, words, told)
        notes = "; ".join(part for part in (note, thinned) if part)
        tokens = self.probe_tokens if probe else None
        style = replace(self.style, note=notes, probe_tokens=tokens, facet=facet)
        drawn = chart(frame, *words, x=self.choice.x, style=style)
        if said and isinstance(drawn.usermeta, dict):
            drawn.usermeta[WORDS] = {**drawn.usermeta.get(WORDS, {}), "said": said}
        return drawn

    def fewer_revisions(
        self, frame: pl.DataFrame, *, cells: int = 0, least: int = 2, entries: int = 1
    ) -> tuple[pl.DataFrame, str]:
        """The rows of evenly spaced revisions, the first and the last among them, where a map has too many cells; and a note.

        A row is a cell unless the number of `cells` is given. At least `least` revisions are kept. A map with a menu shows one of
        its `entries` at a time, and holds up to four times as many cells.
        """
        revisions, cells, most = self.revisions, cells or frame.height, MAX_CELLS * min(entries, _MENU)
        count = max(least, most * len(revisions) // cells) if cells > most else len(revisions)
        if count >= len(revisions):
            return frame, ""
        kept = [revisions[round(place * (len(revisions) - 1) / (count - 1))] for place in range(count)]
        return frame.filter(pl.col("revision").is_in(kept)), f"{count} of {len(revisions)} revisions"

    def section(self, title: str, make: Callable[[], AnyChart], caption: Caption) -> Section:
        """A section of the page, with the reason in the place of a chart that cannot be drawn."""
        try:
            chart = make()
            spec = chart.to_dict()  # a chart finds out late that it cannot be drawn
        except Exception as error:  # whatever is wrong with one chart, the others are drawn
            return self.reason(title, error, caption)
        return Section(title, chart, caption, made=spec)

    def reason(self, title: str, error: Exception, caption: Caption) -> Section:
        """A section that says why it has no chart."""
        kind = "" if isinstance(error, OlmoDynamicsError) else f"{type(error).__name__}: "
        return Section(title, notice(title, f"This chart could not be drawn: {kind}{error}"), caption)

    @cached_property
    def _placed(self) -> pl.DataFrame:
        stepped = self.chosen.filter(pl.col("step").is_not_null())
        if stepped.is_empty():
            return self.chosen
        keys = [name for name in ("line", "stage", "ingredient", "step") if name in stepped.columns]
        return stepped.unique(keys, keep="first", maintain_order=True)

    def only(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows of the revisions and tensors that are drawn."""
        kept = frame.filter(pl.col("revision").is_in(self.revisions))
        return kept if self._tensors is None or "tensor" not in kept.columns else (
            kept.filter(pl.col("tensor").is_in(self._tensors))
        )  # fmt: skip


_WHOLE = (plots.layer_step_map, plots.norms_panel)
"""Charts in which a row left out would be a hole."""

_CHOOSING = (plots.depth_profile, plots.head_map, plots.loss_by_position, plots.massive_places, plots.outlier_births)
"""Charts that choose revisions by themselves, or for which a section chooses them."""


def _plain(chart: Callable[..., AnyChart]) -> Callable[..., AnyChart]:
    """The function of a chart, without the arguments that are given to it beforehand."""
    return chart.func if isinstance(chart, partial) else chart


def _entries(chart: Callable[..., AnyChart], frame: pl.DataFrame) -> int:
    """The entries of a map's menu: the roles, sites or inputs of its table."""
    names = [name for name in ("role", "site", "input") if name in frame.columns]
    return frame.select(names).n_unique() if _plain(chart) is plots.norms_panel and names else 1


def _thinned(frame: pl.DataFrame, words: tuple[str, ...], told: Told | str | None) -> tuple[pl.DataFrame, str]:
    """The rows that lines show: the extremes of each, or where a chart computes them, the revisions that have the extremes."""
    if words:
        return thin(frame, MAX_ROWS, value=words[0])
    value = told.value if isinstance(told, Told) else ""
    if value not in frame.columns or frame["revision"].n_unique() <= MAX_REVISIONS:
        return frame, ""
    ends = frame.group_by("revision", maintain_order=True).agg(pl.col(value).min().alias("least"), pl.col(value).max())
    kept, _ = thin(ends.cast({"least": pl.Float64, value: pl.Float64}), MAX_REVISIONS, by=())
    return frame.filter(pl.col("revision").is_in(kept["revision"].implode())), (
        f"{kept.height} of {ends.height} revisions, every extreme among them"
    )


def _said(frame: pl.DataFrame, told: Told | str | None) -> str:
    """The sentence about a table; empty where its columns are not those of a sentence."""
    if isinstance(told, str):
        return told
    if told is None or told.value not in (told.frame if told.frame is not None else frame).columns:
        return ""
    try:
        return sentence(frame, told)
    except Exception:  # numbers that cannot be told can still be drawn
        return ""


def _noun(frame: pl.DataFrame, column: str) -> str:
    """The name of the quantity in a column, and the things that it measures."""
    quantity = quantity_of(frame, column)
    return quantity.long_name + THINGS.get(quantity.group, "")
