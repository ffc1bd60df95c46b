"""Sections of a run and its forks: differences to the unchanged run, the metrics of each, paths, and the residual stream.

>>> [section.title for section in fork_sections(Drawn(store), od.forest("run", "forks/hot"))]  # doctest: +SKIP
['What the forks changed: training loss', …]
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import Forest, RecordedStore, thin, trajectory
from olmo_dynamics.frames.fork_differences import fork_differences
from olmo_dynamics.names import Site
from olmo_dynamics.plots import AnyChart, captions
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.forks import fork_differences as difference_curves
from olmo_dynamics.plots.page import Section
from olmo_dynamics.plots.theme import WORDS
from olmo_dynamics.plots.weights import weight_captions
from olmo_dynamics.quantities import find, find_training
from olmo_dynamics.reporting.drawing import MAX_ROWS, Drawn
from olmo_dynamics.reporting.sentences import Told, of_path, sentence

_METRICS = ("loss", "gradient_norm", "learning_rate")
_COMPARED = ("loss", "gradient_norm")

_DIFFERENCE = Caption(
    "Each line is a fork less the unchanged run at the same step: the unchanged fork from there, or else the parent. Runs that "
    "see the same batches share their noise, which the difference is free of. Thin: each step; thick: the mean over its "
    "neighbours. One fork of each kind says nothing about how much a change of seed alone would have done.",
    ("standard definition",),
)


def fork_sections(store: Drawn, found: Forest) -> Iterator[Section]:
    """Differences first, then the metrics of each run, then the residual stream of those that were recorded."""
    metrics = found.metrics()
    for quantity in _COMPARED:
        declared = find_training(quantity)
        differences = _differences(found, quantity)
        if differences is not None:
            make = partial(_less, store, differences, declared.long_name)
            yield store.section(f"What the forks changed: {declared.long_name}", make, _DIFFERENCE)
    for quantity in _METRICS:
        declared = find_training(quantity)
        if quantity in metrics.columns:
            title = f"A run and its forks: {declared.long_name}"
            caption = captions.BRANCHES.of(declared)
            yield store.section(title, partial(_lines, store, metrics, quantity, ["run"]), caption)
    stores = found.open_stores()
    moved = {run: held for run, held in stores.items() if "sketches" in held.groups}
    if len(moved) > 1:
        title = "A run and its forks: the path through weight space"
        yield store.section(title, partial(_path, store, moved), weight_captions.PATH)
    recorded = [run for run, held in stores.items() if "activations" in held.groups]
    if len(recorded) > 1:
        stream = found.table("activations").filter(pl.col("site") == Site.RESIDUAL_OUT.value)
        caption = captions.BRANCHES.of(find("activations/rms"))
        title = "A run and its forks: the residual stream"
        yield store.section(title, partial(_lines, store, stream, "rms", ["run", "layer"]), caption)


def _differences(found: Forest, quantity: str) -> pl.DataFrame | None:
    """The table of differences; None where no fork shares a step with an unchanged run."""
    try:
        return fork_differences(found, quantity)
    except OptionError:
        return None


def _path(store: Drawn, moved: dict[str, RecordedStore]) -> AnyChart:
    path = trajectory(moved)
    return _with_said(plots.weight_path(path, x=store.choice.x), of_path(path))


def _less(store: Drawn, differences: pl.DataFrame, name: str) -> AnyChart:
    fewer, note = thin(differences, MAX_ROWS, value="difference", by=["fork"])
    chart = difference_curves(fewer, name, x=store.choice.x, style=plots.Style(note=note))
    lasts = differences.group_by("fork", maintain_order=True).last()
    words = [f"{fork} ends {abs(smoothed):.3g} {'lower' if smoothed < 0 else 'higher'} at step {step:,}"
             for fork, smoothed, step in lasts.select("fork", "smoothed", "step").iter_rows()]  # fmt: skip
    said = f"Against the unchanged run, the {name} of {'; '.join(words)} (mean over neighbouring steps)."
    return _with_said(chart, said)


def _lines(store: Drawn, frame: pl.DataFrame, quantity: str, by: list[str]) -> AnyChart:
    fewer, note = thin(frame, MAX_ROWS, value=quantity, by=by)
    chart = plots.branches(fewer, quantity, x=store.choice.x, style=plots.Style(note=note))
    noun = find_training(quantity).long_name if quantity in _METRICS else "root mean square of activations"
    forks = frame.filter(pl.col("parent").is_not_null(), pl.col("step") >= pl.col("forked_at"))
    only = forks.filter(pl.col("run") == forks["run"][0]) if not forks.is_empty() else frame
    if "revision" not in only.columns:
        only = only.with_columns(pl.format("step {}", "step").alias("revision"))
    return _with_said(chart, sentence(only, Told(quantity, f"in {only['run'][0]}, the {noun}")))


def _with_said(chart: AnyChart, said: str) -> AnyChart:
    if said and isinstance(chart.usermeta, dict):
        chart.usermeta[WORDS] = {**chart.usermeta.get(WORDS, {}), "said": said}
    return chart
