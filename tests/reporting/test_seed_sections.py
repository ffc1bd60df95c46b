"""The report of several runs: a section for each group, with the mean over seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision
from olmo_dynamics.frames import JoinedStore, join
from olmo_dynamics.reporting import render_report
from olmo_dynamics.reporting.chapters import CHAPTERS, chapter_of
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.head_lines import TITLES
from olmo_dynamics.reporting.seed_figures import FIGURES, SeedFigure, figure_rows, figures_of
from tests.store.synthetic import GROUPS, add, new_store

STEPS = (0, 10, 20)
FEW = ("attention", "lens", "gradients", "spectra", "outliers", "routing")


def seeds(folder: Path, groups: Sequence[str]) -> JoinedStore:
    """Two seeds of one recipe."""
    stores = {}
    for seed in (1, 2):
        store = new_store(folder / f"seed{seed}.zarr", tuple(groups))
        for place, step in enumerate(STEPS):
            add(store, replace(parse_revision(f"step{step}"), position_step=step), 10 * seed + place)
        stores[f"tiny-seed{seed}"] = store
    return join(stores)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> JoinedStore:
    return seeds(tmp_path_factory.mktemp("few"), FEW)


def headings(text: str) -> list[str]:
    return re.findall(r'<h3 id="heading-\d+">([^<]*)</h3>', text)


def test_groups_have_figures_of_means_with_bands(few: JoinedStore) -> None:
    text = render_report(few)
    assert "This chart could not be drawn" not in text
    order = list(CHAPTERS)
    shown = sorted(
        (each for each in FIGURES if each.group in FEW), key=lambda each: order.index(chapter_of(each.group))
    )
    assert headings(text) == [each.title for each in shown]
    assert text.count("Line: mean over seeds; band") >= len(headings(text))


def test_a_figure_is_the_mean_over_heads_and_the_largest_over_layers(few: JoinedStore) -> None:
    drawn = Drawn(few)
    heads = few.table("attention")
    mean, largest = (
        figure_rows(drawn, SeedFigure("attention", name, "", over="layers and heads", largest=most)).sort("revision")
        for name, most in (("sink_mass", False), ("max_logit", True))
    )
    for row, other in zip(mean.iter_rows(named=True), largest.iter_rows(named=True), strict=True):
        own = heads.filter(revision=row["revision"])
        assert row["sink_mass"] == pytest.approx(np.nanmean(own["sink_mass"].to_numpy()))
        assert other["max_logit"] == np.nanmax(own["max_logit"].to_numpy())


def test_findings_of_joined_stores_lead_to_these_sections() -> None:
    linked = {
        title for key, title in TITLES.items() if key.split("/")[0] in {"attention", "writes", "spectra", "induction"}
    }
    assert linked <= {each.title for each in FIGURES}


@pytest.mark.slow
def test_every_group_is_drawn(tmp_path: Path) -> None:
    joined = seeds(tmp_path, GROUPS)
    text = render_report(joined)
    assert "This chart could not be drawn" not in text
    drawn = {figure.group for figure in figures_of(Drawn(joined))}
    assert drawn == set(GROUPS) - {"tokens"}
