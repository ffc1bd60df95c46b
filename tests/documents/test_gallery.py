"""The gallery: every plot has a figure, its code runs on a store, and the page is that of its source."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from olmo_dynamics import plots
from olmo_dynamics.experiments.demo import SMALL
from tests.conftest import ROOT
from tests.documents.docs_modules import docs_module

NOT_DRAWN = {"MAX_ROWS", "AnyChart", "Style", "caption_text"}


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    return docs_module("gallery")


def test_every_plot_has_a_figure_and_a_picture(gallery: ModuleType) -> None:
    shown = [figure.plot for found in gallery.figures().values() for figure in found]
    assert sorted(shown) == sorted(set(plots.__all__) - NOT_DRAWN)
    assert {path.stem for path in gallery.PICTURES.glob("*.png")} == set(shown)


def test_the_page_is_that_of_its_source(gallery: ModuleType) -> None:
    assert (ROOT / "docs" / "reference" / "gallery.md").read_text(encoding="utf-8") == gallery.page()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_figures_code_runs(gallery: ModuleType, tmp_path: Path) -> None:
    names = gallery.prepare(tmp_path, SMALL, gallery.SparseSize(layers=2, intermediate_size=32, steps=8, revisions=4,
        corpus_bytes=200_000, entries=512, hidden_size=32, sequence_length=64))  # fmt: skip
    failed = {}
    for figure in (each for found in gallery.figures().values() for each in found):
        try:
            assert gallery.draw(figure, dict(names)).to_dict()
        except Exception as error:  # all failures are told together
            failed[figure.plot] = repr(error)
    assert failed == {}
