"""Every notebook runs from top to bottom, offline, and is kept without outputs.

What was executed stays in `cache/notebooks`, from which the docs are drawn. Notebooks run at their quick size, or at the full
one if the environment says `NOTEBOOKS=full`: one after another in a folder that stays, and each finds what others trained.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import vl_convert
from nbclient import NotebookClient
from nbformat import NotebookNode

from olmo_dynamics.experiments.demo import STANDARD, pretrain
from olmo_dynamics.experiments.lab import place_notebooks
from tests.conftest import REVISIONS
from tests.documents.docs_modules import docs_module
from tests.hub import LocalHub
from tests.plots.drawing import VERSION

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SLOW = pytest.mark.slow
LONG = {"05", "11", "12", "13"}  # the others take three minutes together
WIDGET = "application/vnd.jupyter.widget-view+json"
SPEC = re.compile(r"const spec = (\{.*\});\n")  # of a chart, as olmo_dynamics.plots.display writes it
FULL = os.environ.get("NOTEBOOKS") == "full"
PAGES = docs_module("notebook_pages")
STAND_IN = (
    "The hub was a local one, with a tiny run in place of the published one: the shapes of its numbers are not real."
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_outputs_are_stored(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


def test_the_lab_gets_every_notebook(tmp_path: Path) -> None:
    assert [path.name for path in place_notebooks(tmp_path / "lab")] == [path.name for path in NOTEBOOKS]


@pytest.fixture
def folder(tmp_path: Path, small_demo: Path) -> Path:
    """The folder in which a notebook runs; a small demo lies in it."""
    if FULL:
        study: Path = PAGES.EXECUTED / "study"
        study.mkdir(parents=True, exist_ok=True)
        return study
    shutil.copytree(small_demo, tmp_path / "cache" / "demo")
    return tmp_path


@pytest.fixture
def hub(tiny_run: Path, folder: Path) -> Iterator[LocalHub]:
    """A local hub with a tiny run under the name of the run that the notebook studies."""
    branches = {name: tiny_run / name for name in REVISIONS}
    if FULL:
        trained = sorted(pretrain(folder / "cache" / "demo", size=STANDARD).glob("step*"), key=_step)
        branches = {f"stage1-step{_step(path)}-tokens{_step(path) // 477 + 1}B": path for path in trained}
        branches["main"] = trained[-1]
    with LocalHub() as hub:
        hub.add_repo("allenai/OLMo-2-0425-1B", branches)
        yield hub


def _step(path: Path) -> int:
    return int(path.name.split("-")[0].removeprefix("step"))


def _controls(outputs: list[NotebookNode]) -> Iterator[bool]:
    """For each menu and slider of a chart, True if its values draw different pictures; a widget counts as it is."""
    for out in outputs:
        data = out.get("data", {})
        if WIDGET in data:
            yield True
        found = SPEC.search(data.get("text/html", ""))
        spec = json.loads(found.group(1)) if found else {}
        for param in spec.get("params", ()):
            if "input" in param.get("bind", ()):
                yield len(drawn := [_drawn(spec, param, value) for value in _values(param["bind"])]) == len(set(drawn))


def _values(bind: dict[str, Any]) -> list[Any]:
    """Every value of a menu, and the ends of a slider."""
    return bind["options"] if "options" in bind else [bind["min"], bind["max"]]


def _drawn(spec: dict[str, Any], param: dict[str, Any], value: Any) -> str:
    """The picture at one value of a control."""
    params = [{**each, "value": value} if each["name"] == param["name"] else each for each in spec["params"]]
    return vl_convert.vegalite_to_svg({**spec, "params": params}, vl_version=VERSION)


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=SLOW if path.name[:2] in LONG else (), id=path.name) for path in NOTEBOOKS]
)
def test_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, folder: Path, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds a demo, and continues it."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells if not FULL else ():
        cell.source = cell.source.replace("quick = False", "quick = True")
    given: dict[str, Any] = {"timeout": None if FULL else 280, "resources": {"metadata": {"path": str(folder)}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the notebook client's own machinery
        NotebookClient(notebook, kernel_name="python3", **given).execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("olmoDynamicsCharts" in out.get("data", {}).get("text/html", "") for out in outputs), (
        "a notebook shows charts"
    )
    controls = list(_controls(outputs))
    assert controls, "a notebook has a control"
    assert all(controls), "a control changes the picture"
    assert not [out for out in outputs if out.output_type == "stream" and "Warning" in out.text]
    PAGES.keep(path, notebook, quick=not FULL, note=STAND_IN if path.name.startswith("01") else "")
