"""The recipes of the how-to pages, followed to the letter; those of a newcomer's path are in `test_newcomer`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import olmo_dynamics as od
from olmo_dynamics.experiments.demo import SMALL
from tests.conftest import ROOT
from tests.documents.recipe import Reader

PAGES = ROOT / "docs" / "how-to"


@pytest.fixture
def reader(tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A reader in a folder that holds the demo's run."""
    shutil.copytree(small_run / "run", tmp_path / "cache" / "demo" / "run")
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path)


@pytest.mark.slow
def test_add_a_quantity(reader: Reader) -> None:
    reader.copy_package()
    reader.follow(PAGES / "add-a-quantity.md")
    store = od.open_store("before.zarr")
    assert len(store.done) == SMALL.revisions
    for revision in store.done:
        weights = load_file(Path("cache/demo/run", revision, "model.safetensors"))
        row = store.row("parameters", revision)
        names = store.layout.axes["tensor"].labels.tolist()
        for place, name in enumerate(names):
            wide = weights[name].astype(np.float64)
            rms = np.sqrt(np.mean(wide**2))
            np.testing.assert_allclose(row["rms"][place], rms, rtol=1e-12)  # measured before, and left as it was
            np.testing.assert_allclose(row["crest_factor"][place], np.abs(wide).max() / rms, rtol=1e-12)


def test_add_a_plot(reader: Reader) -> None:
    reader.copy_package()
    reader.follow(PAGES / "add-a-plot.md")
    assert Path("pair.svg").stat().st_size > 10_000


@pytest.mark.slow
def test_add_a_model_family(reader: Reader) -> None:
    reader.copy_package()
    reader.follow(PAGES / "add-a-model-family.md")
    assert len(od.open_store("qwen3.zarr").done) == 2
