"""Sections of weights through time: for a store with sketches, and for groups whose tables are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

import olmo_dynamics as od
from olmo_dynamics.progress import Progress
from olmo_dynamics.reporting import render_report
from olmo_dynamics.reporting.weight_sections import optimizer, spectra
from tests.plots.weights import tables
from tests.runs import write_run

MOVED = ("Distance from the first weights", "Angle to the first weights", "Turns of the path", "The path through weight space",
         "Similarity of revisions")  # fmt: skip


def test_sketches_embeddings_and_a_fork(small_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path, dirs_exist_ok=True) / "run"
    data = [tmp_path / "corpus" / "train.npy"]
    store = od.collect(run, out=tmp_path / "s.zarr", record="sketches,embeddings", batch="2x16", progress=Progress())
    od.fork(run, "step9-tokens4608", data=data, out=tmp_path / "fork", steps=3, save=(), progress=Progress())
    od.collect(tmp_path / "fork", out=tmp_path / "fork" / "store.zarr", record="sketches", progress=Progress())
    text = render_report(store, forks=[tmp_path / "fork"], x="tokens")
    for heading in (*MOVED, "Embedding rows without gradient", "A run and its forks: the path through weight space"):
        assert f">{heading}</h3>" in text, heading
    assert "This chart could not be drawn" not in text and ">Rotation between revisions</h3>" not in text
    chosen = render_report(store, tensors=["q_proj"], revisions="last3")
    assert "This chart could not be drawn" not in chosen


def test_one_revision_says_why_there_is_nothing_to_compare(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ("step0-tokens0",))
    page = render_report(od.collect(run, out=tmp_path / "s.zarr", record="sketches", progress=Progress()))
    text = page.replace("\\n", " ")  # notices are wrapped
    assert "it needs at least two revisions to compare (got 1)" in text
    assert "must hold sketches of at least 3 revisions (got 1)" in text
    assert "must hold sketches of at least 2 revisions (got 1)" in text


class Drawn:
    """A store of tables alone."""

    def __init__(self, **held: pl.DataFrame) -> None:
        self._held = held
        self.store = self
        self.tables = [name.replace("__", ".") for name in held]

    def table(self, name: str) -> pl.DataFrame:
        return self._held[name.replace(".", "__")]

    def draw(self, chart, frame, *words, note="", **_):
        return chart(frame, *words, x="step", style=od.plots.Style(note=note))

    def section(self, title, make, caption):
        return title, make().to_dict(), caption


def test_spectra_and_the_optimizer_have_sections_of_their_own() -> None:
    held = Drawn(
        spectra=tables.spectra(), spectra__singular_value=tables.singular_values(), optimizer=tables.optimizer()
    )
    found = [*spectra(held), *optimizer(held)]  # type: ignore[arg-type]
    assert [title for title, _, _ in found] == [
        "Stable ranks",
        "The largest singular values",
        "The state of the optimiser",
    ]
    assert all(spec["title"]["text"] for _, spec, _ in found)
    experts = tables.spectra().with_columns(expert=pl.lit(1, pl.Int64))
    first = Drawn(spectra=pl.concat([tables.spectra().with_columns(expert=pl.lit(0, pl.Int64)), experts]))
    [(_, spec, _)] = spectra(first)  # type: ignore[arg-type]
    assert "expert 0 of each layer" in spec["title"]["subtitle"]
