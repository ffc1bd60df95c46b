"""A store is its own dictionary: declarations come back exactly, whether the code knows them or not."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics import quantities
from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.quantities.declaration import GROUP_AXES, Group, Quantity, Record, Status
from olmo_dynamics.store import Axis, Layout, Store
from olmo_dynamics.store.appending import write_document
from olmo_dynamics.store.checksums import seal_document
from tests.store.silent import BY_BIN, SHARE, SILENT, add_silent, new_silent_store, silent_layout, silent_values
from tests.store.synthetic import ATTRIBUTES, REVISIONS
from tests.store.test_layout import message

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.from_regex(r"q[a-z0-9_]{0,8}", fullmatch=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
QUANTITIES = st.builds(
    Quantity,
    NAMES,
    long_name=TEXT,
    axes=st.sampled_from([GROUP_AXES, (), ("layer",), ("layer", "bin")]),
    formula=TEXT,
    source=TEXT,
    unit=TEXT,
    symbol=TEXT,
    valid=st.tuples(FINITE | st.just(-math.inf), FINITE | st.just(math.inf)),
    dtype=st.sampled_from(["float64", "float32", "int64", "int16", "uint8"]),
    note=TEXT,
)
ATTRIBUTE_NAMES = st.text(st.characters(categories=["Ll"]), min_size=1, max_size=4).map("my_{}".format)
DECLARED = st.builds(
    Group,
    st.from_regex(r"g[a-z0-9_]{0,8}", fullmatch=True),
    st.sampled_from([(), ("layer",), ("bin", "layer")]),
    TEXT,
    st.lists(QUANTITIES, max_size=4, unique_by=lambda each: each.name).map(tuple),
    st.dictionaries(ATTRIBUTE_NAMES, TEXT | st.integers(-(2**53), 2**53) | FINITE, max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(DECLARED)
def test_a_declaration_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, group: Group) -> None:
    path = tmp_path_factory.mktemp("declared") / "s.zarr"
    shapes = Layout({"layer": Axis("layer", np.arange(2)), "bin": Axis("bin", np.arange(3))}, (group,))
    store = Store.create(path, layout=shapes, attributes=ATTRIBUTES, probe_arrays={})
    found = store.group(group.name)
    assert found == group.with_status()
    assert found.attributes == group.attributes
    shutil.rmtree(path)


def test_the_built_in_groups_come_back(filled: RecordedStore) -> None:
    for name, group in quantities.GROUPS.items():
        assert filled.group(name) == group
        assert filled.quantities(name) == group.quantities
    assert filled.quantity("loss", "cross_entropy") == quantities.find("loss/cross_entropy")


def test_a_group_that_the_code_does_not_know_comes_back(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    found = open_store(store.path).group("silent")
    assert found == SILENT.with_status()
    assert found.attributes == {"bound": 0.01, "recorder": "a:B"}
    group = xarray.open_zarr(store.path, group="silent")
    assert group.attrs["axes"] == ["layer"]
    assert group.attrs["introduction"] == "Features that stay near zero."
    assert group.attrs["bound"] == 0.01
    assert group.silent_share.attrs["note"] == SHARE.note
    assert group.silent_by_bin.dims == ("revision", "layer", "bin")


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match=message(f"{store.path} has no group loud; it has silent")):
        store.group("loud")
    expected = f"{store.path} has no quantity rms in silent; it has silent_share, silent_by_bin, status"
    with pytest.raises(StoreError, match=message(expected)):
        store.quantity("silent", "rms")


def as_version_0_1_0(store: Store, *groups: str) -> None:
    """Take from some groups the attributes that version 0.1.0 did not write."""
    document = json.loads((store.path / "zarr.json").read_bytes())
    for group in groups:
        attributes = document["consolidated_metadata"]["metadata"][group]["attributes"]
        for name in ("axes", "introduction", "bound", "recorder"):
            attributes.pop(name, None)
    write_document(store.path, "", seal_document(document))


def test_a_store_of_version_0_1_0_takes_base_axes_from_the_code_or_its_status(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    outliers = quantities.GROUPS["outliers"]
    store.add_groups(Layout(silent_layout().axes, (SILENT, outliers)), attributes=ATTRIBUTES, probe_arrays={})
    as_version_0_1_0(store, "silent", "outliers")
    found = open_store(store.path)
    assert found.group("outliers") == outliers
    assert found.group("silent") == replace(SILENT.with_status(), introduction="")
    assert found.group("silent").axes == ("layer",)


def test_a_status_that_no_recorder_gives_follows_from_the_records(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    store.plan(REVISIONS[:3])
    add_silent(store, REVISIONS[0], 0)
    true_nan = Record(SILENT["silent_share"], np.float64(np.nan), {"layer": 1})
    store.append(REVISIONS[1], [true_nan], dtype="BF16", weights_sha256="")
    only_binned = Record(SILENT["silent_by_bin"], np.full(3, np.nan), {"layer": 0})
    store.append(REVISIONS[2], [only_binned], dtype="BF16", weights_sha256="")
    nothing, measured, nonfinite = Status.NOT_MEASURED, Status.MEASURED, Status.NONFINITE
    np.testing.assert_array_equal(
        store.array("silent", "status"),
        [[nothing, measured, measured], [nothing, nothing, nonfinite], [nothing, measured, nothing]],
    )


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_status_tells_of_the_number_as_it_is_stored(tmp_path: Path) -> None:
    group = Group("narrow", ("layer",), "", (Quantity("number", dtype="float32"),))
    store = new_silent_store(tmp_path / "s.zarr", group)
    records = [Record(group["number"], np.float64(value), {"layer": layer}) for layer, value in ((0, 1e300), (1, 1.0))]
    store.append(REVISIONS[0], records, dtype="BF16", weights_sha256="")
    assert store.array("narrow", "number").tolist()[0][1:] == [np.inf, 1.0]
    assert store.array("narrow", "status").tolist() == [[Status.NOT_MEASURED, Status.NONFINITE, Status.MEASURED]]


def test_a_status_that_a_recorder_gives_is_kept(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    group = SILENT.with_status()
    given_status = Record(group["status"], np.array([0, 3, 0], dtype=np.uint8))
    store.append(REVISIONS[0], [given_status], dtype="BF16", weights_sha256="")
    assert store.array("silent", "status").tolist() == [[0, 3, 0]]


def test_a_scalar_group_has_a_status_too(tmp_path: Path) -> None:
    group = Group("scalar", (), "One number.", (Quantity("number", dtype="int64"),))
    store = Store.create(tmp_path / "s.zarr", layout=Layout({}, (group,)), attributes=ATTRIBUTES, probe_arrays={})
    store.append(REVISIONS[0], [Record(group["number"], np.int64(4))], dtype="BF16", weights_sha256="")
    store.append(REVISIONS[1], [], dtype="BF16", weights_sha256="")
    assert store.array("scalar", "status").tolist() == [1, 0]
    assert store.array("scalar", "number").tolist() == [4, -1]


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (
            replace(SILENT, quantities=(SHARE, Quantity("layer"))),
            "group silent must not call a quantity or an axis layer: labels of a store's rows have that name; choose another",
        ),
        (
            replace(SILENT, quantities=(Quantity("recorded_2"),)),
            "group silent must not call a quantity or an axis recorded_2: "
            "labels of a store's rows have that name; choose another",
        ),
        (
            replace(SILENT, attributes={"axes": "layer"}),
            "attribute axes of group silent is written by the store itself; choose another name",
        ),
        (
            replace(SILENT, attributes={"bound": math.nan}),
            "attribute bound of group silent must be text or a finite number (got nan)",
        ),
        (
            replace(SILENT, quantities=(Quantity("x", axes=("neuron",)),)),
            "group silent lies on the axis neuron, which the layout does not have; add it",
        ),
        (
            replace(SILENT, quantities=(Quantity("x", axes=("layer", "tensor")),)),
            "group silent must not lie on layer, tensor together: two of them have labels called layer; "
            "make two groups of it",
        ),
    ],
)
def test_a_group_that_cannot_be_stored_is_refused(group: Group, expected: str) -> None:
    with pytest.raises(StoreError, match=message(expected)):
        silent_layout(group)


@pytest.mark.parametrize(
    ("group", "found"),
    [
        (replace(SILENT, attributes={"bound": 0.02}), "attribute bound of group silent is 0.01, not 0.02"),
        (replace(SILENT, attributes={}), "attribute bound of group silent is 0.01, not absent"),
        (
            replace(SILENT, quantities=(replace(SHARE, axes=()), BY_BIN)),
            "silent/silent_share lies on layer, not no axis",
        ),
        (
            replace(SILENT, quantities=(replace(SHARE, dtype="float32"),)),
            "silent/silent_share has the dtype float64, not float32",
        ),
        (
            replace(SILENT, quantities=(replace(SHARE, unit="percent"), BY_BIN)),
            "silent/silent_share has the unit 1, not percent",
        ),
        (Group("silent", ("bin",), "", (Quantity("other"),), SILENT.attributes), "group silent lies on layer, not bin"),
    ],
)
def test_a_declaration_that_contradicts_the_stores_is_refused(tmp_path: Path, group: Group, found: str) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    expected = message(f"{store.path} holds other settings: {found}; use the same, or another store")
    with pytest.raises(StoreMismatchError, match=expected):
        store.add_groups(silent_layout(group), attributes=ATTRIBUTES, probe_arrays={})
    with pytest.raises(StoreMismatchError, match=expected):
        store.add_quantities(silent_layout(group))


def test_another_class_may_continue_a_group(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    renamed = replace(SILENT, attributes={"bound": 0.01, "recorder": "c:D"}, introduction="Other words.")
    store.check_same(silent_layout(renamed), ATTRIBUTES)
    assert store.group("silent").introduction == "Features that stay near zero."


def test_a_record_of_another_shape_of_quantity_is_refused(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    other = replace(SILENT["silent_share"], axes=(), dtype="float32")
    expected = (
        "the store holds silent/silent_share as float64 on layer, and the record is float32 on no axis; "
        "give the quantity another name, or use another store"
    )
    with pytest.raises(StoreMismatchError, match=message(expected)):
        store.append(REVISIONS[0], [Record(other, np.float32(1))], dtype="BF16", weights_sha256="")


def test_its_numbers_are_read_by_name(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    add_silent(store, REVISIONS[0], 4)
    for name in ("silent_share", "silent_by_bin"):
        np.testing.assert_array_equal(store.array("silent", name), [silent_values(4)[name]])
        np.testing.assert_array_equal(store.row("silent", REVISIONS[0].name)[name], silent_values(4)[name])
