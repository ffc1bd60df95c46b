"""Runs, stores and forests as notebooks and terminals show them, with every word from a file escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from olmo_dynamics.checkpoints import MemorySource
from olmo_dynamics.errors import OptionError, StoreError, UnknownRevisionError, UnknownSourceError
from olmo_dynamics.frames import RecordedStore, forest
from olmo_dynamics.frames.run import Run
from olmo_dynamics.quantities import GROUPS, find
from tests.frames.test_lineage import origin, write_run
from tests.store.synthetic import ATTRIBUTES, PROBE, layout
from tests.store.test_layout import message

HOSTILE = '<img src=x onerror="alert(1)">'
NAMES = ("step0-tokens0", "step10-tokens40", "step100-tokens400", "main")
OPEN = {"br", "line", "progress"}


class Elements(HTMLParser):
    """The elements of a text, each of which must be closed, and its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in OPEN:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPEN:
            assert self.open.pop() == tag


def harmless(html: str) -> Elements:
    """The elements of a display: none that loads or runs anything."""
    found = Elements(html)
    assert set(found.names) <= {"div", "table", "thead", "tbody", "tr", "th", "td", "span", "svg", "line"}
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
    return found


def run(*names: str, name: str = "org/tiny") -> Run:
    return Run(MemorySource({each: {"config.json": b"{}"} for each in names}, name))


def test_a_run_is_shown_as_a_timeline() -> None:
    shown = run(*NAMES)
    assert str(shown) == "\n".join(
        [
            "Run org/tiny",
            f"  run        █···█{'·' * 34}█  4 revisions, step 0 to 100",
            "  revisions  4",
            "  formats    safetensors (4)",
        ]
    )
    assert harmless(shown._repr_html_()).names.count("line") == 1 + 3  # the axis, and a tick for each known step
    assert repr(shown) == "Run('org/tiny')"


def test_a_known_run_shows_its_faults_and_a_hostile_name_stays_text() -> None:
    assert "allenai/OLMo issue 915" in run(*NAMES, name="allenai/OLMo-2-1124-7B")._repr_html_()
    html = run(HOSTILE, name=HOSTILE)._repr_html_()
    harmless(html)
    assert "&lt;img src=x" in html


def test_a_run_that_cannot_be_listed_shows_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def unlisted(self: MemorySource) -> list[object]:
        raise UnknownSourceError("there is no such repo")

    monkeypatch.setattr(MemorySource, "revisions", unlisted)
    shown = run(*NAMES)
    assert str(shown) == "Run org/tiny\n  revisions  cannot be listed: there is no such repo"
    assert "cannot be listed: there is no such repo" in shown._repr_html_()
    assert bool(shown)


def test_revisions_are_reached_by_place_name_and_step() -> None:
    held = run(*NAMES, "step10-tokens44-b")
    assert len(held) == 5
    assert [each.name for each in held] == held.revisions["revision"].to_list()
    assert held[-1] == list(held)[-1]
    assert held["main"].name == "main"
    assert [each.name for each in held[:2]] == [each.name for each in list(held)[:2]]
    assert held.at(step=100).name == "step100-tokens400"
    expected = "org/tiny has 5 revisions, so a place must be -5 to 4 (got 100); for a step, use run.at(step=100)"
    with pytest.raises(UnknownRevisionError, match=message(expected)):
        _ = held[100]
    nearest = "org/tiny has no revision of step 99; the nearest are step100-tokens400, "
    with pytest.raises(UnknownRevisionError, match=f"^{re.escape(nearest)}"):
        held.at(step=99)
    with pytest.raises(
        OptionError, match=r"^at\(\) must name one revision; 2 have step 10: .*; give stage= or line= too$"
    ):
        held.at(step=10)
    with pytest.raises(OptionError, match=message("at() needs a step or a number of tokens (got neither)")):
        held.at()


def test_a_store_is_shown_with_units_on_hover(filled: RecordedStore) -> None:
    html = filled._repr_html_()
    harmless(html)
    for group, quantities in GROUPS.items():
        assert f">{group}</span>" in html
        assert f">{quantities.quantities[0].name}</span>" in html
    assert 'title="root mean square (weight unit): sqrt(sum(x**2) / n)"' in html
    text = str(filled).splitlines()
    assert text[0] == f"Store {filled.path}"
    assert text[3].split(maxsplit=1) == ["done", "3 revisions: main, stage1-step0-tokens0B, stage1-step10-tokens1B"]


def test_a_hostile_store_stays_text(tmp_path: Path) -> None:
    attributes = ATTRIBUTES | {"source": HOSTILE, "model_type": HOSTILE}
    made = RecordedStore.create(
        tmp_path / "s.zarr", layout=layout(("loss",)), attributes=attributes, probe_arrays=PROBE
    )
    harmless(made._repr_html_())


def test_quantities_and_groups_show_units_and_formulas() -> None:
    harmless(GROUPS["attention"]._repr_html_())
    assert "sqrt(sum(x**2) / n)" in find("parameters/rms")._repr_html_()


def test_a_forest_is_shown_as_a_tree(tmp_path: Path) -> None:
    write_run(tmp_path / "parent", (0, 4, 8))
    write_run(tmp_path / "child", (6, 8), origin(tmp_path / "parent", 4), lr=0.5)
    shown = forest(tmp_path / "child", tmp_path / "parent")
    assert str(shown) == "\n".join(
        [
            "Forest of 2 runs",
            "  parent  step 0 to 8, 3 checkpoints",
            "     └ child  from step 4, lr 0.5; step 6 to 8, 2 checkpoints",
        ]
    )
    assert repr(shown) == "Forest(parent, child)"
    assert harmless(shown._repr_html_()).names.count("tr") == 3


def test_a_misspelled_group_table_or_quantity_is_suggested(filled: RecordedStore) -> None:
    with pytest.raises(OptionError, match=r"; did you mean 'parameters'"):
        filled.table("parametres")
    with pytest.raises(StoreError, match=r"; did you mean 'attention'"):
        filled.quantities("atention")
    with pytest.raises(StoreError, match=r"; did you mean 'rms'\?$"):
        filled.quantity("parameters", "rmss")
    with pytest.raises(OptionError, match=r"; did you mean 'entropy'"):
        _ = GROUPS["attention"]["entropi"]
