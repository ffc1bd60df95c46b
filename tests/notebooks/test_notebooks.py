"""Every notebook runs from top to bottom, offline, and is kept without outputs."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from olmo_dynamics.experiments.lab import place_notebooks
from tests.conftest import REVISIONS
from tests.hub import LocalHub

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SLOW = pytest.mark.slow
LONG = {"05", "11", "12", "13"}  # the others take three minutes together
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_outputs_are_stored(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


def test_the_lab_gets_every_notebook(tmp_path: Path) -> None:
    assert [path.name for path in place_notebooks(tmp_path / "lab")] == [path.name for path in NOTEBOOKS]


@pytest.fixture
def hub(tiny_run: Path) -> Iterator[LocalHub]:
    """A local hub with a tiny run under the name of the run that the notebook studies."""
    with LocalHub() as hub:
        hub.add_repo("allenai/OLMo-2-0425-1B", {name: tiny_run / name for name in REVISIONS})
        yield hub


def _has_a_control(data: dict[str, object]) -> bool:
    """True for a widget, and for a chart with a menu or a slider."""
    return WIDGET in data or '"bind":{"' in str(data.get("text/html", ""))


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=SLOW if path.name[:2] in LONG else (), id=path.name) for path in NOTEBOOKS]
)
def test_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, small_demo: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds a demo, and continues it."""
    shutil.copytree(small_demo, tmp_path / "cache" / "demo")
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("quick = False", "quick = True")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the notebook client's own machinery
        NotebookClient(
            notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("olmoDynamicsCharts" in out.get("data", {}).get("text/html", "") for out in outputs), (
        "a notebook shows charts"
    )
    assert any(_has_a_control(out.get("data", {})) for out in outputs), "a notebook has a control"
    assert not [out for out in outputs if out.output_type == "stream" and "Warning" in out.text]
