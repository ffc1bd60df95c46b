"""Sections for any group of a store, drawn from its declaration alone.

For each of the first quantities on the group's base axes: its curve over training and, where the group has layers, its map
over layers and steps and its profile by depth. A chart that cannot be drawn gives its place to the reason.

    >>> for section in declared_sections(Drawn(store), "silent"):  # doctest: +SKIP
    ...     print(section.title)
    Share of silent features over training
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.plots import AnyChart, captions
from olmo_dynamics.plots.page import Section
from olmo_dynamics.plots.titles import notice
from olmo_dynamics.quantities.declaration import STATUS, Group, Quantity
from olmo_dynamics.reporting.drawing import Drawn

_MOST = 3
"""The number of quantities of a group that are drawn."""

Draw = Callable[[], AnyChart]


def declared_sections(store: Drawn, name: str) -> Iterator[Section]:
    """The sections of one group; none of them can fail."""
    group = store.store.group(name)
    drawn = [each for each in group.quantities if each.axes == group.axes and each.name != STATUS][:_MOST]
    if not drawn:
        tables = [f"{name}.{each.name}" for each in group.quantities if each.name != STATUS]
        text = f"{name} has no quantity on its base axes to draw; its tables are {', '.join(tables) or 'empty'}"
        yield Section(group.name, notice(group.name, text), _caption(group))
    for quantity in drawn:
        for words, chart in _charts(store, group, quantity):
            yield store.section(f"{_title(quantity)} {words}", chart, _caption(group, quantity))


def _charts(store: Drawn, group: Group, quantity: Quantity) -> Iterator[tuple[str, Draw]]:
    """The charts of a quantity, each with the words that complete its title."""
    hue = "layer" if "layer" in group.axes else next(iter(group.axes), None)
    yield "over training", partial(_chart, partial(plots.trajectory, color=hue), store, group, quantity, hue=hue)
    if "layer" in group.axes:
        yield "by layer and step", partial(_chart, plots.layer_step_map, store, group, quantity, hue="layer")
        yield "by depth", partial(_chart, plots.depth_profile, store, group, quantity, hue="layer")


def _chart(
    chart: Callable[..., AnyChart], store: Drawn, group: Group, quantity: Quantity, *, hue: str | None
) -> AnyChart:
    """A chart with a panel for each label of a second axis."""
    frame = store.table(group.name)
    others = [axis for axis in group.axes if axis != hue and frame[axis].n_unique() > 1]
    if others and frame[others[0]].dtype.is_numeric():
        words = others[0].replace("_", " ") + " {}"  # a bare number says little above a panel
        frame = frame.with_columns(pl.format(words, pl.col(others[0])).alias(others[0]))
    return store.draw(chart, frame, quantity.name, probe=True, facet=others[0] if others else None)


def _title(quantity: Quantity) -> str:
    name = quantity.long_name or quantity.name.replace("_", " ")
    return name[:1].upper() + name[1:]


def _caption(group: Group, quantity: Quantity | None = None) -> captions.Caption:
    text, source = (quantity.note, quantity.source) if quantity else ("", "")
    return captions.Caption(f"{group.introduction} {text}".strip(), (source,) if source else ())
