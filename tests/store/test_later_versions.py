"""Stores of a later version of the same layout: what is known here is read, and what is not is passed over."""

import json

import numpy as np
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import StoreMismatchError
from olmo_dynamics.names import Revision
from tests.store.layout2 import MEASURED, unpack


@pytest.fixture
def store(tmp_path):
    return unpack(tmp_path) / "log.zarr"


def change(store, edit):
    """Edit the documents of a store's nodes, and keep the nodes of each group together."""
    path = store / "zarr.json"
    document = json.loads(path.read_text())
    nodes = document["consolidated_metadata"]["metadata"]
    edit(nodes)
    groups = list(dict.fromkeys(name.partition("/")[0] for name in nodes))
    together = {name: nodes[name] for name in sorted(nodes, key=lambda name: groups.index(name.partition("/")[0]))}
    document["consolidated_metadata"]["metadata"] = together
    path.write_text(json.dumps(document))
    for name, node in together.items():
        (store / name).mkdir(parents=True, exist_ok=True)
        (store / name / "zarr.json").write_text(json.dumps(node))


def test_attributes_of_another_kind_are_passed_over(store):
    def edit(nodes):
        for node in nodes.values():
            node["attributes"]["added"] = {"by": [None, 1.5]}

    expected = od.open_store(store).table("loss")
    change(store, edit)
    later = od.open_store(store)
    assert later.group("loss").attributes == {}
    assert later.table("loss").equals(expected)


def test_a_quantity_of_an_unknown_dtype_is_passed_over_and_not_written_to(store):
    def edit(nodes):
        added = json.loads(json.dumps(nodes["loss/cross_entropy"]))
        nodes["loss/added"] = {**added, "data_type": "float16"}

    expected = od.open_store(store).table("loss")
    change(store, edit)
    later = od.open_store(store, mode="a")
    assert "added" not in later.group("loss")
    assert later.table("loss").equals(expected)
    message = r"an array must hold one of float64, .* \(got float16, of a later version\); write with that version$"
    with pytest.raises(StoreMismatchError, match=message):
        later.plan([Revision("main")])
    assert od.open_store(store).done == set(MEASURED)


def test_a_declaration_may_lack_words(store):
    def edit(nodes):
        for word in ("units", "long_name", "formula", "source"):
            del nodes["loss/cross_entropy"]["attributes"][word]

    change(store, edit)
    quantity = od.open_store(store).quantity("loss", "cross_entropy")
    assert (quantity.unit, quantity.long_name, quantity.formula, quantity.source) == ("1", "", "", "")


def test_a_status_of_an_unknown_code_is_told_by_its_number(store):
    [rows] = (store / "loss" / "status").glob("c.*")
    held = np.frombuffer(rows.read_bytes(), dtype=np.uint8)
    rows.write_bytes(np.where(held == 1, np.uint8(7), held).tobytes())
    assert od.open_store(store).table("loss")["status"].unique().to_list() == ["status 7"]
