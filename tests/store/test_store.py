from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray

from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities import GROUPS, find, of_group
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.store import Axis, Layout, Store
from tests.store.synthetic import ATTRIBUTES, PROBE, REVISIONS, TENSORS, add, axes, layout, new_store, values
from tests.store.test_layout import message


def test_every_array_comes_back_in_the_planned_order(filled: RecordedStore) -> None:
    expected = [values(seed) for seed in (3, 1, 0)]  # planned backwards; 2 was not collected
    for group in GROUPS:
        arrays = filled.arrays(group)
        assert list(arrays) == [quantity.name for quantity in of_group(group)]
        for name, array in arrays.items():
            rows = np.stack([row[f"{group}/{name}"] for row in expected])
            np.testing.assert_array_equal(array, rows, strict=True)
            np.testing.assert_array_equal(filled.array(group, name), rows, strict=True)


def test_planned_rows_read_as_fill_but_for_what_their_names_say(filled: RecordedStore) -> None:
    planned = filled.arrays("parameters", planned=True)
    assert planned["rms"].shape == (4, 3)
    assert np.isnan(planned["rms"][1]).all()
    assert (planned["zero_count"][1] == -1).all()
    assert (planned["status"][1] == Status.NOT_MEASURED).all()
    revisions = filled.arrays("revisions", planned=True)
    assert revisions["revision"].tolist() == [each.name for each in REVISIONS[::-1]]
    assert revisions["step"].tolist() == [-1, 5, 10, 0]
    assert revisions["commit"].tolist() == ["c3", "", "c1", "c0"]
    assert revisions["status"].tolist() == [1, 0, 1, 1]


def test_revisions_come_back(filled: RecordedStore) -> None:
    assert filled.revisions() == [REVISIONS[3], REVISIONS[1], REVISIONS[0]]
    assert filled.done == {REVISIONS[0].name, REVISIONS[1].name, REVISIONS[3].name}
    assert filled.missing == (REVISIONS[2].name,)
    facts = filled.arrays("revisions")
    assert facts["dtype"].tolist() == ["BF16"] * 3
    assert facts["weights_sha256"].tolist() == [f"{seed:064d}" for seed in (3, 1, 0)]
    assert facts["collected_at"].tolist() == ["2025-03-01T12:30:00Z"] * 3
    assert facts["nonfinite_tensors"].tolist() == [0, 0, 0]


def test_the_layout_and_the_probe_come_back(filled: RecordedStore) -> None:
    assert filled.layout == layout()
    assert filled.axis("sequence").coordinates["domain_of_sequence"].tolist() == ["prose", "prose", "code"]
    assert filled.axis("tensor").coordinates["layer"].tolist() == [-1, 0, 1]
    assert filled.probe().keys() == PROBE.keys()
    for name, array in filled.probe().items():
        np.testing.assert_array_equal(array, PROBE[name], strict=True)


def test_a_store_without_a_probe_or_text_along_its_axes(tmp_path: Path) -> None:
    names = np.array(["a", "b"])
    along = {"tensor": Axis("tensor", names), "quantile": axes()["quantile"], "feature": axes()["feature"]}
    shapes = Layout(along, (GROUPS["parameters"],))
    store = Store.create(tmp_path / "s.zarr", layout=shapes, attributes=ATTRIBUTES, probe_arrays={})
    assert store.probe() == {}
    assert store.layout == shapes
    assert "probe" not in store.sizes()
    assert store.arrays("parameters")["rms"].shape == (0, 2)


def test_one_label_of_an_axis_is_picked(filled: RecordedStore) -> None:
    picked = filled.array("outliers", "feature_fraction_above", at={"threshold": 6.0, "input": "mlp_input"})
    np.testing.assert_array_equal(picked, filled.array("outliers", "feature_fraction_above")[:, 1, :, 4])


def test_sizes_are_the_files(filled: RecordedStore) -> None:
    sizes = filled.sizes()
    assert list(sizes) == ["revisions", *GROUPS, "probe"]
    files = [file for file in filled.path.rglob("*") if file.is_file() and file.parent != filled.path]
    assert sum(sizes.values()) == sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("group", ["revisions", "probe", *GROUPS])
def test_xarray_opens_a_group_labelled(filled: RecordedStore, group: str) -> None:
    data = xarray.open_zarr(filled.path, group=group)
    for variable in data.variables.values():
        assert {"units", "long_name", "formula", "source"} <= variable.attrs.keys()
    if group == "probe":
        assert data.token_id.dims == ("sequence", "position")
        assert data.domain_of_sequence.dims == ("sequence",)
        return
    assert [str(name) for name in data.revision.values] == [each.name for each in REVISIONS[::-1]]
    assert data.step.values.tolist() == [-1, 5, 10, 0]
    assert data.step.dtype == data.tokens.dtype == np.int64
    if group != "revisions":
        assert {"revision", "step", "tokens", *layout().axis_names(group)} <= set(data.coords)
        assert set(data.data_vars) == {quantity.name for quantity in of_group(group)}
        flags = dict(zip(data.status.flag_values, data.status.flag_meanings.split(), strict=True))
        assert flags == {
            0: "not_measured", 1: "measured", 2: "nonfinite", 3: "degenerate", 4: "excluded", 5: "absent",
        }  # fmt: skip


def test_xarray_selects_by_label(filled: RecordedStore) -> None:
    parameters = xarray.open_zarr(filled.path, group="parameters")
    tensor = "model.layers.0.self_attn.q_proj.weight"
    cell = parameters.rms.sel(revision="main", tensor=tensor)
    assert float(cell) == values(3)["parameters/rms"][1]
    assert (str(cell.role.values), int(cell.layer)) == ("q_proj", 0)
    complete = xarray.open_zarr(filled.path, group="revisions").status.load() == 1
    assert parameters.rms[complete.values].shape == (3, 3)


def test_xarray_opens_the_whole_tree(filled: RecordedStore) -> None:
    tree = xarray.open_datatree(filled.path)
    assert set(tree.children) == {"revisions", "probe", *GROUPS}
    assert tree.attrs["source"] == "org/tiny"
    assert tree.attrs["layout_version"] == 3
    assert tree.attrs["olmo_dynamics_version"]
    assert tree["loss"].cross_entropy.sel(revision="main", domain="code") == values(3)["loss/cross_entropy"][1]


def test_attributes_are_the_given_ones_and_ours(filled: RecordedStore) -> None:
    assert {name: filled.attributes[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert filled.attributes["groups"] == list(GROUPS)


def test_planning_again_keeps_rows_and_adds_at_the_end(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    store.plan(REVISIONS[1:3])
    add(store, REVISIONS[2], 2)
    store.plan([REVISIONS[0], REVISIONS[2], REVISIONS[0]])
    assert store.missing == (REVISIONS[1].name, REVISIONS[0].name)
    np.testing.assert_array_equal(store.array("loss", "cross_entropy"), [values(2)["loss/cross_entropy"]])


def test_more_revisions_than_a_chunk_holds(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    revisions = [Revision(f"step{step}", step=step) for step in range(1030)]
    store.plan(revisions[:300])
    store.plan(revisions)
    add(store, revisions[700], 7)
    assert list(store.missing) == [each.name for each in revisions if each.step != 700]
    assert store.arrays("revisions", planned=True)["step"].tolist() == list(range(1030))
    assert xarray.open_zarr(store.path, group="loss").sizes["revision"] == 1030
    np.testing.assert_array_equal(store.array("loss", "cross_entropy"), [values(7)["loss/cross_entropy"]])


def test_tensors_with_nan_are_counted(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("parameters",))
    status = Record(find("parameters/status"), np.array([2, 1, 2], dtype=np.uint8))
    store.append(REVISIONS[0], [status], dtype="BF16", weights_sha256="")
    assert store.arrays("revisions")["nonfinite_tensors"].tolist() == [2]


RMS = find("parameters/rms")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            Record(find("loss/cross_entropy"), np.float64(1)),
            "a store of parameters cannot hold a record of loss/cross_entropy; add its group first",
        ),
        (
            Record(RMS, np.float64(1), {"tensor": "x"}),
            f"axis tensor has no 'x'; it has {', '.join(TENSORS)}",
        ),
        (Record(RMS, np.zeros(2)), "a record of parameters/rms at {} must have the shape (3,) (got (2,))"),
        (
            Record(RMS, np.float64(1), {"site": "q"}),
            "a record of parameters/rms must name axes among tensor (got site)",
        ),
    ],
)
def test_a_record_without_a_place_leaves_the_revision_missing(tmp_path: Path, record: Record, expected: str) -> None:
    store = new_store(tmp_path / "s.zarr", ("parameters",))
    with pytest.raises(StoreError, match=message(expected)):
        store.append(REVISIONS[0], [record], dtype="BF16", weights_sha256="")
    assert store.missing == (REVISIONS[0].name,)


def different(**changes: object) -> dict:
    return {**ATTRIBUTES, **changes}


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        (different(source="org/other"), "source is org/tiny, not org/other"),
        (different(compute_dtype="bfloat16"), "compute_dtype is float32, not bfloat16"),
        (different(model_type="olmo3"), "model_type is olmo2, not olmo3"),
        (different(probe={"sha256": "cd" * 32}), "probe sha256 is abababababab, not cdcdcdcdcdcd"),
        (different(probe={}), "probe sha256 is abababababab, not none"),
        (
            different(model_config={**ATTRIBUTES["model_config"], "hidden_size": 16}),
            "model config hidden_size is 8, not 16",
        ),
        (
            different(model_config={**ATTRIBUTES["model_config"], "qk_norm": True}),
            "model config qk_norm is None, not True",
        ),
    ],
)
def test_other_settings_are_refused_by_name(filled: RecordedStore, attributes: dict, found: str) -> None:
    expected = f"{filled.path} holds other settings: {found}; use the same, or another store"
    with pytest.raises(StoreMismatchError, match=message(expected)):
        filled.check_same(layout(), attributes)


def test_another_layout_is_refused(filled: RecordedStore) -> None:
    fewer = Layout({**axes(), "domain": Axis("domain", np.array(["prose"]))}, GROUPS)
    expected = f"{filled.path} holds other settings: domain has 2 labels, not 1; use the same, or another store"
    with pytest.raises(StoreMismatchError, match=message(expected)):
        filled.check_same(fewer, ATTRIBUTES)


def test_the_same_settings_pass_whatever_wrote_the_config(filled: RecordedStore) -> None:
    filled.check_same(layout(), ATTRIBUTES)
    config = {**ATTRIBUTES["model_config"], "transformers_version": "5.1", "torch_dtype": "bfloat16"}
    filled.check_same(layout(), different(model_config=config))


def test_what_is_not_a_store_is_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent.zarr"
    expected = f"there is no store at {absent}; make one with olmo-dyn collect SOURCE --out {absent}"
    with pytest.raises(StoreError, match=message(expected)):
        Store.open(absent)
    expected = (
        f"{tmp_path} is not a store of olmo_dynamics: it has no zarr.json with a layout_version; "
        "give a folder that olmo-dyn collect made"
    )
    for content in (None, b"{", b"[]", b'{"attributes": {}}'):
        if content is not None:
            (tmp_path / "zarr.json").write_bytes(content)
        with pytest.raises(StoreError, match=message(expected)):
            Store.open(tmp_path)
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path / 'zarr.json'} is not a store of olmo_dynamics")):
        Store.open(tmp_path / "zarr.json")


def test_another_layout_version_is_refused(tmp_path: Path) -> None:
    document = {"attributes": {"layout_version": 1, "olmo_dynamics_version": "9.9"}}
    (tmp_path / "zarr.json").write_text(json.dumps(document), encoding="utf-8")
    expected = (
        f"{tmp_path} has layout version 1 and this olmo_dynamics reads 2 and 3; "
        "use the version that made it (9.9) or collect it anew"
    )
    with pytest.raises(StoreMismatchError, match=message(expected)):
        Store.open(tmp_path)


def test_a_store_is_not_made_over_something(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message(f"{tmp_path} exists already; open it, or choose another folder")):
        new_store(tmp_path)


def test_a_store_must_be_given_its_attributes(tmp_path: Path) -> None:
    attributes = {name: value for name, value in ATTRIBUTES.items() if name not in ("probe", "source")}
    expected = (
        "a store must be given the attributes source, model_type, model_config, compute_dtype, probe "
        "(missing: source, probe)"
    )
    with pytest.raises(StoreError, match=message(expected)):
        Store.create(tmp_path / "s.zarr", layout=layout(), attributes=attributes, probe_arrays={})
    assert list(tmp_path.iterdir()) == []


def test_a_store_open_for_reading_is_not_written(filled: RecordedStore) -> None:
    expected = f'{filled.path} is open for reading only; open it with mode="a" to append'
    with pytest.raises(StoreError, match=message(expected)):
        filled.plan([replace(REVISIONS[0], name="other")])


def test_unknown_names_are_answered_with_those_there_are(filled: RecordedStore) -> None:
    known = ", ".join(("revisions", *GROUPS, "probe"))
    with pytest.raises(StoreError, match=message(f"{filled.path} has no group sharpness; it has {known}")):
        filled.arrays("sharpness")
    with pytest.raises(StoreError, match=message(f"{filled.path} has no parameters/rank; its groups are {known}")):
        filled.array("parameters", "rank")
    with pytest.raises(StoreError, match=re.escape(f"{filled.path} has no axis neuron; it has tensor, ")):
        filled.axis("neuron")
