"""The findings at the head of a report, and the revisions of its maps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from olmo_dynamics import plots
from olmo_dynamics.frames import StoreFinding
from olmo_dynamics.reporting import drawing, head_lines
from olmo_dynamics.reporting.drawing import Drawn
from tests.reporting.large_store import large_store


def test_the_first_findings_are_of_different_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [StoreFinding("bytes", f"Revision {place} has faults.", "parameters/rms", "lm_head") for place in range(9)]
    jump = StoreFinding("jump", "The loss jumps.", "loss/cross_entropy", "code")
    other = StoreFinding("jump", "The loss jumps elsewhere.", "loss/cross_entropy", "prose")
    found = SimpleNamespace(note="")
    monkeypatch.setattr(head_lines, "findings", lambda *_, **__: _Found([*bad, jump, other], found.note))
    monkeypatch.setattr(head_lines, "_picture", lambda *_: "")
    monkeypatch.setattr(head_lines, "_summaries", lambda _: iter(()))
    lines = head_lines.head_lines(SimpleNamespace())  # type: ignore[arg-type]
    assert [line.sentence for line in lines] == [
        "Revision 0 has faults.",
        "The loss jumps.",
        "The loss jumps elsewhere.",
    ]


class _Found(list[StoreFinding]):
    def __init__(self, found: list[StoreFinding], note: str) -> None:
        super().__init__(found)
        self.note = note


def test_a_map_with_a_menu_holds_four_times_as_many_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MAX_CELLS", 44)
    store = Drawn(large_store(tmp_path / "s.zarr", 32, 1))
    rows = store.table("parameters").filter(pl.col("layer").is_not_null())  # 11 roles
    for chart, kept in ((plots.norms_panel, 16), (plots.layer_step_map, 4)):
        drawn = store.draw(chart, rows, "rms").to_dict()
        assert f"{kept} of 32 revisions" in str(drawn["title"]["subtitle"])
