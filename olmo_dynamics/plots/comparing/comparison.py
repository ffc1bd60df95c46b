"""A quantity of several trainings on one picture, whatever their sources, and their differences where seeds pair them.

>>> found = od.compare({"OLMo 2": "olmo2.zarr", "Pythia": "pythia.zarr"}, "loss/bits_per_byte", x="tokens")  # doctest: +SKIP
>>> found.chart(smoothing=0.6, pinned="OLMo 2")                                                    # doctest: +SKIP
>>> found.differences                                                                              # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import polars as pl

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames import RecordedStore, SeedComparison, open_store
from olmo_dynamics.frames import compare as compare_seeds
from olmo_dynamics.frames.seeds.seed_comparison import Side, require_comparable
from olmo_dynamics.plots.axes import time_axis, value_axis
from olmo_dynamics.plots.explorer.explored import Explored
from olmo_dynamics.plots.explorer.overview import free_labels
from olmo_dynamics.plots.explorer.smoothing import smoothed
from olmo_dynamics.plots.lines import LINE, with_line
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import zoom
from olmo_dynamics.plots.table import Rows, drawable
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition, heading, quantity_of
from olmo_dynamics.plots.trajectories import series_lines

SIDE = "side"
"""The column that names a row's training."""

_WIDE, _PANEL = (640, 340), (210, 160)
_MOST_PANELS = 24


@dataclass(frozen=True)
class CurveComparison:
    """One quantity of several trainings; a notebook shows it as their curves on one picture.

    `curves` has the rows of all trainings with their names in the column `side`. `notes` says in plain lines why there are no
    differences, and what was left out of them.
    """

    curves: pl.DataFrame
    column: str
    x: str
    notes: tuple[str, ...] = ()
    seeds: SeedComparison | None = field(default=None, repr=False)

    @property
    def differences(self) -> pl.DataFrame:
        """The differences between two trainings, as `SeedComparison` has them.

        Raises:
            OptionError: there are more than two, or no seed and step that both have.
        """
        return self._of_seeds().differences

    @property
    def pairs(self) -> pl.DataFrame:
        """One row per pair of seeds, as `SeedComparison` has them.

        Raises:
            OptionError: as for `differences`.
        """
        return self._of_seeds().pairs

    def chart(
        self, *, x: str = "", smoothing: float = 0.0, pinned: str | Sequence[str] = (), style: Style = PLAIN
    ) -> AnyChart:
        """The curves, one colour per training, in panels if the quantity has labels such as domains.

        Args:
            x: `step` or `tokens`; positions take its place where a training has several stages.
            smoothing: the weight from 0 to below 1 that a moving average gives to its past; see `od.plots.overview`.
            pinned: trainings that keep their colour while the others fade, until a double click on the picture.
            style: title, note, size, and the scales of both axes.

        Raises:
            OptionError: a pinned name is unknown, or there is nothing, or too much, to draw.
        """
        names = [pinned] if isinstance(pinned, str) else list(pinned)
        known = self.curves[SIDE].unique(maintain_order=True).to_list()
        for name in names:
            if name not in known:
                raise OptionError(
                    f"pinned must name trainings of this comparison (got {name!r}){did_you_mean(name, known)}"
                )
        facet = style.facet if style.facet is not None else self._panels()
        rows = drawable(self.curves, self.column, x=x or self.x, also=[SIDE, *([facet] if facet else [])])
        series = [SIDE, LINE, *free_labels(rows.frame, self.column)]
        frame = smoothed(
            rows.frame, self.column, rows.x, [each for each in series if each in rows.frame.columns], smoothing
        )
        if LINE in frame.columns and frame.select(SIDE, LINE).n_unique() == frame[SIDE].n_unique():
            frame = frame.drop(LINE)  # colours alone tell trainings of one line apart
        return self._drawn(Rows(frame, rows.left_out, rows.x), facet, names, style)

    def _drawn(self, rows: Rows, facet: str, pinned: Sequence[str], style: Style) -> AnyChart:
        quantity = quantity_of(rows.frame, self.column)
        width, height = _PANEL if facet else _WIDE
        width, height = style.width or width, style.height or height
        time = time_axis(rows.frame, rows.x, width=width, style=style)
        value = value_axis(rows.frame, self.column, quantity, scale=style.scale, panels=facet)
        lines = series_lines(rows, value, time, hue=SIDE, panels=bool(facet)).add_params(zoom())
        params: Any = lines.params
        for param in params if pinned else ():
            if param.name == f"picked_{SIDE}":
                param.value = [{SIDE: name} for name in pinned]
        lines = lines.properties(width=width, height=height)
        whole = small_multiples(lines, rows, facet, columns=style.columns) if facet else lines
        return finalize(
            whole, heading(rows.frame, quantity, " during training"), [definition(quantity), rows.subtitle], style
        )

    def _panels(self) -> str:
        """The label that splits the picture; none if its labels have too many values."""
        several = free_labels(self.curves, self.column)
        return next((name for name in several if 1 < self.curves[name].n_unique() <= _MOST_PANELS), "")

    def _of_seeds(self) -> SeedComparison:
        if self.seeds is None:
            raise OptionError("; ".join(self.notes) or "compare() needs two sides for differences")
        return self.seeds

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The curves as a notebook shows a chart."""
        return self.chart()._repr_mimebundle_(**options)

    def __str__(self) -> str:
        """The differences if there are any, then the notes."""
        sides = ", ".join(self.curves[SIDE].unique(maintain_order=True))
        return str(self.seeds) if self.seeds else "\n".join([f"{self.column} of {sides}", *self.notes])


@overload
def compare(
    a: Mapping[str, Side], b: str = ..., quantity: str = ..., *, x: str = ..., **labels: Any
) -> CurveComparison: ...
@overload
def compare(a: Side, b: Side, quantity: str = ..., *, x: str = ..., **labels: Any) -> SeedComparison: ...
def compare(
    a: Side | Mapping[str, Side], b: Side | None = None, quantity: str = "", *, x: str = "step", **labels: Any
) -> SeedComparison | CurveComparison:
    """Compare a quantity of several trainings: their curves on one picture, and their differences over seeds.

    `compare({"a": store, "b": store, …}, quantity)` takes any number of trainings, of any source, and gives a `CurveComparison`:
    a picture, and the differences where there are two sides whose seeds and steps pair. `compare(a, b, quantity)` gives the
    differences alone.

    Args:
        a: stores, their paths, or rows of one of their tables, by the names to draw them with; or one of two sides.
        b: the other side; with a mapping, the quantity.
        quantity: `group/name` such as `loss/bits_per_byte`; of tables, the name of the column.
        x: the time axis and the column by which differences are paired, `step` or `tokens`.
        **labels: values of labels to filter the tables by, such as `role="q_proj"`, `layer=3`; with a mapping only.

    Raises:
        OptionError: there is no such quantity or label, or it does not compare across the tokenizers or texts of the stores.
            Without a mapping also: there are not two sides, no pair, or a side has several values for one seed and step.
        StoreError: there is no store at a path, or a store has no such group.
    """
    if not isinstance(a, Mapping):
        if labels:
            raise OptionError(
                f"compare(a, b, quantity) takes no {next(iter(labels))}; give a mapping of sides, or filter its tables"
            )
        return compare_seeds(a, b, quantity, x=x)
    key = b if isinstance(b, str) else quantity
    if not a or not key:
        raise OptionError("compare() needs a mapping of trainings and a quantity such as 'loss/bits_per_byte'")
    held = {
        name: each if isinstance(each, RecordedStore | pl.DataFrame) else open_store(each) for name, each in a.items()
    }
    require_comparable(list(held.values()), key)
    frames = {name: _rows(name, each, key, labels) for name, each in held.items()}
    column = key.rpartition("/")[2]
    column = column if all(column in frame.columns for frame in frames.values()) else "value"
    seeds, notes = _seeds(frames, key, x)
    curves = pl.concat([_named(frame, name) for name, frame in frames.items()], how="diagonal_relaxed")
    return CurveComparison(curves, column, x, notes, seeds)


def _rows(name: str, side: RecordedStore | pl.DataFrame, key: str, labels: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of one training that hold the quantity, filtered."""
    if isinstance(side, RecordedStore):
        explored = Explored(side)
        side.quantity(*key.split("/", 1))
        frame = explored.frame(explored.require(key).key)
    else:
        frame = side
    for label in labels:
        if label not in frame.columns:
            known = list(frame.columns)
            raise OptionError(f"the table of {name} must have a column {label!r}{did_you_mean(label, known)}")
    found = frame.filter(**labels) if labels else frame
    if found.is_empty():
        raise OptionError(
            f"{name} must have rows of {', '.join(f'{label} {value!r}' for label, value in labels.items())}"
        )
    return found


def _named(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Rows with the name of their training, which their line of training begins with."""
    lines = with_line(frame)
    return lines.with_columns(pl.lit(name).alias(SIDE), pl.format("{}/{}", pl.lit(name), LINE).alias(LINE))


def _seeds(frames: Mapping[str, pl.DataFrame], key: str, x: str) -> tuple[SeedComparison | None, tuple[str, ...]]:
    """The differences of two sides, or the reason why there are none."""
    if len(frames) != 2:
        return None, (f"Differences need two sides (got {len(frames)}).",)
    try:
        found = compare_seeds(frames, key, x=x)
    except OptionError as error:
        return None, (f"No differences: {error}.",)
    return found, found.notes
