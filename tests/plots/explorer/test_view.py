"""Views of a store: every quantity can be looked at, menus stay good, and the copied code draws the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olmo_dynamics.errors import OptionError, StoreError
from olmo_dynamics.frames import RecordedStore, join
from olmo_dynamics.plots.explorer import Explored, ExploredView, look
from tests.store.synthetic import new_store
from tests.store.test_layout import message

LABELS = ("role", "site", "layer", "head", "domain", "line")


def run_code(code: str) -> Any:
    """The value of the last of three lines of Python."""
    first, second, last = code.splitlines()
    names: dict[str, Any] = {}
    exec(f"{first}\n{second}\nchart = {last}", names)  # noqa: S102 - our own code
    return names["chart"]


def same_picture(view: ExploredView) -> bool:
    """True if the code of a view draws its chart."""

    def told(chart: Any) -> str:
        return json.dumps(chart.to_dict(validate=False), sort_keys=True)

    return told(run_code(view.code)) == told(view.chart)


def failed(view: ExploredView) -> bool:
    """True if the view says why it cannot be drawn."""
    return "cannot be drawn" in json.dumps(view.chart.to_dict(validate=False)["title"])


@pytest.mark.slow
def test_every_quantity_is_drawn_or_says_why(filled: RecordedStore) -> None:
    explored = Explored(filled)
    firsts = {key.partition("/")[0]: key for key in reversed(list(explored.quantities))}
    assert set(firsts) == set(filled.groups)
    views = {key: look(explored, {"quantity": key}) for key in firsts.values()}
    assert {key for key, view in views.items() if failed(view)} == set()
    for key, view in views.items():
        assert view.choice["quantity"] == key
        json.dumps(view.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "asked",
    [
        {"quantity": "parameters/rms", "role": "q_proj"},
        {"quantity": "attention/entropy", "layer": "1", "head": "all", "x": "tokens", "smoothing": "0.6"},
        {"quantity": "attention/entropy", "head": "1", "line": "stage1", "scale": "linear", "x scale": "linear"},
        {"quantity": "parameters/element_quantile", "quantile": "0.5"},
        {"quantity": "loss/cross_entropy"},
    ],
    ids=str,
)
def test_the_code_draws_the_same(filled: RecordedStore, asked: dict[str, str]) -> None:
    view = look(Explored(filled), asked)
    assert not failed(view)
    assert {name: value for name, value in view.choice.items() if name in asked} == asked
    assert same_picture(view)


def test_the_code_of_metrics_and_of_joined_stores(forked: Path, filled: RecordedStore) -> None:
    view = look(Explored.at(forked), {"quantity": "training/loss", "smoothing": "0.9"})
    assert view.code == f"import olmo_dynamics as od\ntable = od.metrics({str(forked)!r})\n" + (
        "od.plots.overview(table, 'loss', smoothing=0.9)"
    )
    assert same_picture(view)
    joined = join({"a": filled.path, "b": forked / "store.zarr"})
    assert same_picture(look(Explored(joined), {"quantity": "loss/cross_entropy", "run": "b"}))


def test_what_cannot_be_chosen_gives_the_default(filled: RecordedStore) -> None:
    explored = Explored(filled)
    wild = dict.fromkeys(("quantity", *LABELS, "x", "smoothing", "scale", "x scale"), "'); import os #")
    assert look(explored, wild).choice == look(explored, {}).choice
    attention = look(explored, {"quantity": "attention/entropy", "layer": "0"})
    menus = {menu.name: menu.options for menu in attention.menus}
    assert menus["layer"] == ("all", "0", "1")
    assert menus["head"][0] == "all"  # of one layer, all heads can be seen
    whole = look(explored, {"quantity": "attention/entropy", "layer": "all", "head": "all"})
    assert whole.choice["head"] == "0"


def test_a_scale_that_does_not_fit_is_told_in_the_picture(filled: RecordedStore) -> None:
    view = look(Explored(filled), {"quantity": "loss/cross_entropy", "x scale": "log"})
    assert failed(view)
    assert "x_scale='log' needs values above 0" in json.dumps(view.chart.to_dict())


def test_a_quantity_must_exist_and_a_store_hold_a_revision(filled: RecordedStore, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\(got 'loss/cross_entropi'\); did you mean 'loss/cross_entropy'"):
        Explored(filled).require("loss/cross_entropi")
    expected = "a store must hold at least one measured revision to be explored (got none)"
    with pytest.raises(OptionError, match=message(expected)):
        look(Explored(new_store(tmp_path / "new.zarr", ("loss",))), {})
    with pytest.raises(StoreError, match=message(f"there is no store or run at {tmp_path / 'x'}; give the folder that "
                                                 "collect or fork writes")):  # fmt: skip
        Explored.at(tmp_path / "x")
