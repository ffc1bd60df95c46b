"""Pages of groups that the code does not know: drawn from what the store declares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics import quantities
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import Group, Quantity, Record
from olmo_dynamics.reporting import render_report
from olmo_dynamics.reporting.declared import declared_sections
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.store import Axis, Layout
from tests.plots.drawing import drawn
from tests.store.silent import SHARE, SILENT, add_silent, new_silent_store
from tests.store.synthetic import ATTRIBUTES, REVISIONS

STEPS = [Revision(f"step{step}", step=step, tokens=step) for step in (0, 10, 20)]
SETTINGS = {**ATTRIBUTES, "probe": {}}


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that remembers no group of another test."""
    monkeypatch.setattr(quantities, "_REMEMBERED", {})


def store_of(path: Path, group: Group, **sizes: int) -> RecordedStore:
    """A store of one group, every cell of it measured in three revisions."""
    axes = {name: Axis(name, np.arange(size)) for name, size in sizes.items()}
    store = RecordedStore.create(path, layout=Layout(axes, (group,)), attributes=SETTINGS, probe_arrays={})
    for seed, revision in enumerate(STEPS):
        rng = np.random.default_rng(seed)
        rows = [Record(each, rng.random(store.layout.shape(each)).astype(each.dtype)) for each in group.quantities]
        store.append(revision, rows, dtype="BF16", weights_sha256=f"{seed}")
    return store


def titles(store: RecordedStore, group: str) -> list[str]:
    return [section.title for section in declared_sections(Drawn(store), group)]


def test_a_store_whose_only_group_is_a_users_own_gives_a_page(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    attributes = store.attributes
    assert attributes["groups"] == ["silent"]
    wide = store_of(tmp_path / "wide.zarr", SILENT, layer=4, bin=3)
    text = render_report(wide)
    for words in ("over training", "by layer and step", "by depth"):
        assert f">Share of silent features {words}</h3>" in text
    assert "Features that stay near zero. Silent on the probe, which is small." in text
    assert "Sources: a notebook." in text
    assert "This chart could not be drawn" not in text


def test_every_chart_of_a_group_with_layers_is_drawn(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s.zarr", SILENT, layer=4, bin=3)
    sections = list(declared_sections(Drawn(store), "silent"))
    curves, cells, depth = (drawn(section.chart) for section in sections)
    assert curves["symbol"] >= 12
    assert cells["rect"] >= 12
    assert depth["symbol"] >= 12


def test_a_second_axis_is_a_panel_each(tmp_path: Path) -> None:
    heads = Group("heads", ("layer", "head"), "Heads.", (Quantity("entropy", long_name="entropy of a head"),))
    store = store_of(tmp_path / "s.zarr", heads, layer=3, head=2)
    sections = list(declared_sections(Drawn(store), "heads"))
    assert len(sections) == 3
    for section in sections:
        assert "could not be drawn" not in str(section.chart.to_dict()), section.title
        assert section.chart.to_dict()["facet"]["field"] in ("head", "panel")
        assert section.chart.to_dict()["facet"]["sort"] == ["head 0", "head 1"]


def test_a_group_without_layers_has_curves_alone_and_at_most_three(tmp_path: Path) -> None:
    many = tuple(Quantity(f"number_{letter}", long_name=f"number {letter}") for letter in "abcd")
    store = store_of(tmp_path / "s.zarr", Group("scalars", (), "Numbers.", many))
    assert titles(store, "scalars") == [f"Number {letter} over training" for letter in "abc"]


def test_a_quantity_without_a_long_name_is_called_by_its_own(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s.zarr", Group("lanes", ("lane",), "", (Quantity("much_traffic"),)), lane=2)
    assert titles(store, "lanes") == ["Much traffic over training"]
    assert "This chart could not be drawn" not in render_report(store)


def test_a_chart_that_cannot_be_drawn_gives_its_place_to_the_reason(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    nothing = np.full(3, np.nan)
    store.append(REVISIONS[0], [Record(SILENT["silent_share"], nothing)], dtype="BF16", weights_sha256="")
    text = render_report(store)
    assert "This chart could not be drawn: " in text
    assert text.count('<h3 id="heading-') == 3


def test_a_group_with_nothing_on_its_base_axes_names_its_tables(tmp_path: Path) -> None:
    binned = replace(SILENT, quantities=(replace(SHARE, axes=("layer", "bin")),))
    store = store_of(tmp_path / "s.zarr", binned, layer=4, bin=3)
    text = render_report(store)
    assert "silent has no quantity on its base axes to draw; its tables are silent.silent_share" in text


def test_a_users_group_stands_beside_built_in_ones(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    logits = quantities.GROUPS["logits"]
    store.add_groups(Layout(store.layout.axes, (SILENT, logits)), attributes=store.attributes, probe_arrays={})
    add_silent(store, REVISIONS[0], 0)
    rows = [Record(each, np.ones((), dtype=each.dtype)) for each in logits.quantities]
    store.append(REVISIONS[1], rows, dtype="BF16", weights_sha256="", groups=("logits",))
    text = render_report(store)
    assert text.index(">Logits of the head</h3>") < text.index(">Share of silent features over training</h3>")
