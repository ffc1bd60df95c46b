"""Published figures, each by one call, with a caption that names data, probe and numbers of revisions.

>>> import olmo_dynamics as od
>>> figure = od.plots.published_figure("induction_bump", "run.zarr", x="tokens")  # doctest: +SKIP
>>> figure.save("induction.pdf"), od.plots.caption_text(figure)  # doctest: +SKIP

The figures are declared in `figures.toml`: name, paper, what they are drawn from, and the plot that draws them.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import polars as pl

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames import RecordedStore, metrics, open_store
from olmo_dynamics.plots.logs import training_logs
from olmo_dynamics.plots.published.batch_panels import critical_batch
from olmo_dynamics.plots.published.interpolation_curve import interpolation
from olmo_dynamics.plots.published.store_figures import FIGURES
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style

STORE, LOGS, INTERPOLATION, BRANCHES = "store", "logs", "interpolation", "branches"

NEEDS = {
    STORE: "a store with {groups}: `olmo-dyn collect SOURCE --record {names} --out STORE`",
    LOGS: "the folder of a run that was trained or forked here, or a table of `od.read_logs`",
    INTERPOLATION: "the table of `od.interpolate(run, first, second)`",
    BRANCHES: "the table of `od.critical_batch(run, revisions, …)`, which is also in its folder as `branches.parquet`",
}
"""What a figure is drawn from, by its kind of source."""

_OF_WEIGHTS = ("parameters", "embeddings", "sketches")

Drawable = RecordedStore | pl.DataFrame | str | Path


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One published figure: its name here, its subject, the paper, and what it is drawn from."""

    name: str
    title: str
    paper: str
    source: str
    groups: tuple[str, ...]
    code: str

    @property
    def needs(self) -> str:
        """The source in words."""
        names = ",".join(self.groups)
        return NEEDS[self.source].format(groups=f"the group `{names}`", names=names)


def _declared() -> dict[str, PublishedFigure]:
    text = files("olmo_dynamics.plots.published").joinpath("figures.toml").read_text(encoding="utf-8")
    return {
        name: PublishedFigure(name, **{**fields, "groups": tuple(fields["groups"])})
        for name, fields in tomllib.loads(text).items()
    }


PUBLISHED = _declared()
"""The published figures by name."""


def published_figure(name: str, source: Drawable, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Draw a published figure from your own data; `caption_text` gives its caption with data, probe and revisions.

    Args:
        name: a figure of the page "Published figures": `rms_by_layer`, `embedding_rows`, `layer_step_map`, `depth_profile`,
            `loss_and_gradient`, `max_logit`, `ngram_crossover`, `induction_bump`, `interpolation`, `routing`,
            `critical_batch`, `rotation` or `bits_per_byte`.
        source: a store or its path; for `loss_and_gradient` a run's folder or a table of logs; for `interpolation` and
            `critical_batch` their table, or its file.
        x: `step` or `tokens`; an interpolation has no time axis.
        style: the look, such as `Style.paper("single", x_scale="log")`.

    Raises:
        OptionError: the name is unknown, the store lacks a group, or there is nothing to draw.
    """
    if name not in PUBLISHED:
        raise OptionError(
            f"no published figure is called {name!r}{did_you_mean(name, PUBLISHED)}; known: {', '.join(PUBLISHED)}"
        )
    figure = PUBLISHED[name]
    if figure.source == STORE:
        return _of_store(figure, source, x, style)
    table, about = _table(figure, source)
    style = _with_note(style, about)
    if figure.source == LOGS:
        return training_logs(table, x=x, style=style)
    return (
        interpolation(table, style=style) if figure.source == INTERPOLATION else critical_batch(table, x=x, style=style)
    )


def _of_store(figure: PublishedFigure, source: Drawable, x: str, style: Style) -> AnyChart:
    if isinstance(source, pl.DataFrame):
        raise OptionError(f"{figure.name} is drawn from a store (got a table); give the store or its path")
    store = source if isinstance(source, RecordedStore) else open_store(source)
    lacking = next((group for group in figure.groups if group not in store.groups), None)
    if lacking:
        raise OptionError(
            f"{figure.name} needs the group {lacking}, which {store.path} lacks; collect it with --record {lacking}"
        )
    probe = store.attributes.get("probe") or {}
    if probe and not set(figure.groups) <= set(_OF_WEIGHTS):
        style = replace(style, probe_tokens=style.probe_tokens or int(probe["tokens"]))
        about = f"Data: {store.attributes['source']}; probe {str(probe['sha256'])[:8]}."
    else:
        about = f"Data: {store.attributes['source']}; weights alone, without a probe."
    return FIGURES[figure.name](store, x, _with_note(style, about))


def _table(figure: PublishedFigure, source: Drawable) -> tuple[pl.DataFrame, str]:
    """The table that a figure is drawn from, and a sentence on its origin."""
    if isinstance(source, pl.DataFrame):
        return source, ""
    if not isinstance(source, str | Path):
        raise OptionError(f"{figure.name} is drawn from {figure.needs} (got a store)")
    path = Path(source)
    if figure.source == LOGS:
        return metrics(path), f"Data: {path}."
    if not path.is_file():
        raise OptionError(f"{figure.name} is drawn from {figure.needs} (got {path}, which is not a file)")
    return pl.read_parquet(path), f"Data: {path}."


def _with_note(style: Style, note: str) -> Style:
    return replace(style, note=f"{style.note} {note}".strip())
