"""The explorer in a notebook: its controls change the picture and the code, and a saved notebook keeps a picture."""

from __future__ import annotations

from pathlib import Path

import ipywidgets
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.plots.explorer import Explorer


def controls(explorer: Explorer) -> dict[str, ipywidgets.Widget]:
    return explorer._controls


def test_a_control_changes_the_picture_and_the_code(filled: RecordedStore) -> None:
    explorer = od.explore(filled, "attention/entropy", smoothing=0.6)
    assert explorer.choice["smoothing"] == "0.6"
    controls(explorer)["layer"].value = "1"
    assert explorer.choice["layer"] == "1" and "layer=1" in explorer.code
    assert explorer._picture.spec == explorer.chart.to_dict()
    assert explorer._code.code == explorer.code
    controls(explorer)["quantity"].value = "loss/cross_entropy"
    assert set(controls(explorer)) == set(explorer.choice) and "head" not in explorer.choice
    explorer.choose(quantity="attention/entropy", head="1", x="tokens")
    assert controls(explorer)["x"].value == "tokens" and controls(explorer)["head"].value == "1"


def test_a_saved_notebook_keeps_a_picture(filled: RecordedStore) -> None:
    explorer = od.explore(filled)
    data, metadata = explorer._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in data
    assert set(metadata["image/png"]) == {"width", "height"}
    assert data["text/plain"] == repr(explorer)


def test_nothing_is_loaded_from_elsewhere(filled: RecordedStore) -> None:
    explorer = od.explore(filled)
    for script in (explorer._picture._esm, explorer._code._esm):
        assert "esm.sh" not in str(script) and "cdn" not in str(script)[:10_000]


def test_a_grown_store_is_read_again(forked: Path) -> None:
    explorer = od.explore(forked, "training/loss")
    table = od.metrics(forked)
    table.vstack(table.tail(1).with_columns(step=table["step"].tail(1) + 1)).write_parquet(forked / "metrics.parquet")
    before = explorer.chart.to_dict()
    explorer.refresh()
    assert explorer.chart.to_dict() != before


def test_an_unknown_quantity_is_refused(filled: RecordedStore) -> None:
    with pytest.raises(OptionError, match="did you mean 'parameters/rms'"):
        od.explore(filled, "parameters/rmss")
