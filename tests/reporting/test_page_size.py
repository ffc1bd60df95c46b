"""The size of a report: that of what pictures can show, however many revisions a store holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from olmo_dynamics.plots.display import page_libraries
from olmo_dynamics.reporting import drawing, render_report
from tests.plots.test_page import data_of
from tests.reporting.large_store import large_store

MOST_BYTES = 10_000_000
LIMITS = {"MAX_ROWS": 300, "MAX_CELLS": 360, "MAX_REVISIONS": 20}


def test_pictures_of_many_revisions_hold_no_more_rows_than_they_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in LIMITS.items():
        monkeypatch.setattr(drawing, name, limit)
    text = render_report(large_store(tmp_path / "s.zarr", 60, 1))
    assert "This chart could not be drawn" not in text
    _, specs = data_of(text)
    rows = {spec["usermeta"]["embedOptions"]["downloadFileName"]: [table["rows"] for table in spec["datasets"].values()]
            for spec in specs}  # fmt: skip
    assert {name: counts for name, counts in rows.items() if max(counts) > 3 * LIMITS["MAX_ROWS"]} == {}
    assert len(text.encode()) - len(page_libraries().encode()) < 300_000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_500_revisions_of_32_layers_make_a_page_of_at_most_10_megabytes(tmp_path: Path) -> None:
    text = render_report(large_store(tmp_path / "s.zarr", 500, 32))
    assert "This chart could not be drawn" not in text
    assert len(text.encode()) <= MOST_BYTES
