"""Progress in a notebook: one output that is updated, and ends in a summary."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from olmo_dynamics import progress as progress_module
from olmo_dynamics.progress import NotebookOutput, ProgressBar, StepBar, notebook_output

TOTALS = {
    "revisions": 2, "seconds": 3.0, "bytes": 2e6, "planned_bytes": 2e6, "peak_bytes": 1e9, "planned_peak_bytes": 1e9,
    "requests": 0, "shards": 0,
}  # fmt: skip


class Cell:
    """The outputs of a notebook's cell, as the front end keeps them: an update replaces what was there."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, str]] = []

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Cell:
        assert raw and display_id
        self.outputs.append(bundle)
        return self

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        self.outputs[-1] = bundle


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    made = Cell()
    monkeypatch.setattr(progress_module, "notebook_output", lambda: NotebookOutput(made.display))
    return made


def test_a_collection_ends_in_one_output_with_its_summary(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar() as bar:
        bar.expect(revisions=2, nbytes=2_000_000)
        for name in ("<b>first</b>", "second"):
            bar.begin(name)
            bar.advance(1_000_000)
            bar.finish(name)
        bar.note("one file is <odd>")
        assert "<progress" in cell.outputs[-1]["text/html"]
        bar.conclude(TOTALS)
    summary = "2 revisions in 3 s; 2.0 MB read (2.0 MB planned); at most 1.0 GB of memory (about 1.0 GB planned)"
    [kept] = cell.outputs
    assert kept["text/plain"] == f"{summary}\none file is <odd>"
    assert kept["text/html"] == f'<div class="olmo-dynamics">{summary}<br>one file is &lt;odd&gt;</div>'
    assert capsys.readouterr() == ("", "")


def test_a_training_that_stops_says_where(cell: Cell) -> None:
    bar = StepBar()
    bar.expect(revisions=1, nbytes=10)
    bar.begin("loss 3.000")
    bar.advance(4)
    bar.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    [kept] = cell.outputs
    assert kept["text/plain"].startswith("stopped at loss 3.000: 0/1  4 steps  ")


def test_only_a_notebook_has_such_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def running(shell: Any) -> NotebookOutput | None:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        return notebook_output()

    assert running(None) is None
    assert running(SimpleNamespace()) is None  # a terminal with IPython
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=print))
    assert running(SimpleNamespace(kernel=1)) is not None
