"""Stores of version 0.1.0 open, draw, export and continue as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xarray

from olmo_dynamics import quantities
from olmo_dynamics.frames import RecordedStore, export, open_store
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import STATUS, Quantity, Record, Status
from olmo_dynamics.reporting import render_report
from olmo_dynamics.store import Layout
from tests.store.layout2 import FOURTH, MEASURED, STATES, unpack


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("layout2"))


@pytest.fixture(params=STATES)
def store(request: pytest.FixtureRequest, unpacked: Path) -> RecordedStore:
    """Either state of the store; read it, never change it."""
    return open_store(unpacked / f"{request.param}.zarr")


def test_it_opens_with_all_its_revisions(store: RecordedStore) -> None:
    assert store.attributes["olmo_dynamics_version"] == "0.1.0"
    assert store.attributes["layout_version"] == 2
    assert store.done == set(MEASURED)
    assert store.groups == ("parameters", "embeddings", "activations", "outliers", "logits", "loss", "tokens")
    for revision in MEASURED:
        assert store.recorded(revision) == set(store.groups)


def test_columns_of_later_versions_are_read_from_the_names(store: RecordedStore) -> None:
    assert "line" not in xarray.open_zarr(store.path, group="revisions")
    facts = store.table("loss").unique("revision", maintain_order=True)
    assert facts.select("revision", "seed", "line", "position_step", "position_tokens").rows() == [
        (name, None, "stage1", step, tokens)
        for name, step, tokens in zip(MEASURED, facts["step"], facts["tokens"], strict=True)
    ]
    assert [(each.line, each.position_step) for each in store.revisions()] == [("stage1", n) for n in (0, 10, 20)]


def test_it_declares_what_the_code_declares(store: RecordedStore) -> None:
    for name in store.groups:
        group = quantities.GROUPS[name]
        held = store.group(name)
        assert (held.axes, held.introduction) == (group.axes, group.introduction)
        assert set(map(without_words, held.quantities)) <= set(map(without_words, group.quantities))
        assert "axes" not in xarray.open_zarr(store.path, group=name).attrs


def without_words(quantity: Quantity) -> Quantity:
    """A quantity without the texts that later versions may put better."""
    return replace(quantity, long_name="", formula="", note="")


def column(values: np.ndarray) -> list[float | None]:
    return [None if value == -1 and values.dtype.kind == "i" else value for value in values.tolist()]


def expected_values(store: RecordedStore, quantity: Quantity, *, long: bool) -> list[float | None]:
    """A quantity's cells as xarray reads them, without code of ours."""
    group = xarray.open_zarr(store.path, group=quantity.group)
    values, status = group[quantity.name], group[STATUS]
    worst = status.max([name for name in status.dims if name not in values.dims])
    kept = np.broadcast_to(worst.broadcast_like(values).transpose(*values.dims), values.shape) != Status.NOT_MEASURED
    array = values.values
    if long:
        kept = kept & (~np.isnan(array) if array.dtype.kind == "f" else array != -1)
    return column(array[kept])


def test_every_table_holds_the_numbers_of_the_arrays(store: RecordedStore) -> None:
    seen = 0
    for name in store.groups:
        frame = store.table(name)
        for quantity in store.quantities(name):
            if quantity.name == STATUS or name == "tokens":
                continue
            if quantity.axes == store.group(name).axes:
                np.testing.assert_array_equal(
                    frame[quantity.name].to_list(), expected_values(store, quantity, long=False)
                )
            else:
                long = store.table(f"{name}.{quantity.name}")["value"].to_list()
                np.testing.assert_array_equal(long, expected_values(store, quantity, long=True))
            seen += 1
    assert seen > 100
    losses = xarray.open_zarr(store.path, group="tokens").token_cross_entropy.values
    assert store.table("tokens")["token_cross_entropy"].to_list() == losses[~np.isnan(losses)].tolist()


def test_it_is_drawn(store: RecordedStore) -> None:
    text = render_report(store)
    for heading in ("Loss by domain", "Weight norms over training", "The residual stream by depth"):
        assert f">{heading}</h3>" in text, heading


def test_it_is_exported(store: RecordedStore, tmp_path: Path) -> None:
    for name in store.tables:
        path = export(store, name, tmp_path / f"{name}.parquet")
        assert pl.read_parquet(path).height == store.table(name).height


@pytest.mark.parametrize("state", STATES)
def test_a_fourth_revision_is_appended(tmp_path: Path, state: str) -> None:
    path = unpack(tmp_path) / f"{state}.zarr"
    store = open_store(path, mode="a")
    before = {group: store.arrays(group) for group in store.groups}
    records = [
        Record(quantity, store.row(group, MEASURED[1])[quantity.name])
        for group in store.groups
        for quantity in store.quantities(group)
    ]
    store.add_groups(store.layout, attributes=store.attributes, probe_arrays=store.probe())
    store.append(Revision(FOURTH, stage=1, step=30, tokens=960), records, dtype="F32", weights_sha256="w")
    store.compact()
    after = open_store(path)
    assert after.done == {*MEASURED, FOURTH}
    for group, arrays in before.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(after.array(group, name), np.concatenate([values, values[1:2]]))


@pytest.mark.parametrize("state", STATES)
def test_a_new_statistic_of_every_tensor_is_back_filled(tmp_path: Path, state: str) -> None:
    path = unpack(tmp_path) / f"{state}.zarr"
    store = open_store(path, mode="a")
    parameters = store.group("parameters")
    wider = replace(parameters, quantities=(*parameters.quantities, Quantity("cube_mean", long_name="mean cube")))
    layout = Layout(store.layout.axes, (wider,))
    assert store.lacking_quantities(layout) == {"parameters": (wider["cube_mean"],)}
    store.add_quantities(layout)
    before = store.table("parameters")
    assert before["cube_mean"].is_nan().all()
    weights = store.arrays("revisions")["weights_sha256"].tolist()
    tensors = len(store.axis("tensor"))
    for number, (revision, sha256) in enumerate(zip(store.revisions(), weights, strict=True)):
        assert "parameters" not in store.recorded(revision.name)
        found = [
            Record(wider["cube_mean"], np.full(tensors, float(number))),
            Record(wider["rms"], np.zeros(tensors)),  # measured again, and passed over
        ]
        store.append(revision, found, dtype="F32", weights_sha256=sha256)
    store.compact()
    after = open_store(path)
    assert after.lacking("parameters") == ()
    assert after.table("parameters").drop("cube_mean").equals(before.drop("cube_mean"))
    assert after.array("parameters", "cube_mean").tolist() == [[float(number)] * tensors for number in range(3)]
    assert ">Weight norms over training</h3>" in render_report(after)
