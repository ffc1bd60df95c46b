"""Groups and quantities added later, revisions filled in parts, in any order of operations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Group, Status
from olmo_dynamics.store import Axis, Layout, Store
from tests.store.silent import (
    MORE,
    SILENT,
    WIDER,
    add_silent,
    new_silent_store,
    silent_layout,
    silent_records,
    silent_values,
)
from tests.store.synthetic import ATTRIBUTES, PROBE, REVISIONS, WHEN, add, axes, layout, new_store, records, values
from tests.store.test_atomicity import Killed, killed_after
from tests.store.test_layout import message

BOTH = ("logits", "loss")
WIDER_AS_HELD = replace(SILENT.with_status(), quantities=(*SILENT.with_status().quantities, WIDER["silent_mean"]))
"""The group of a store to which the wider one's quantity was added: in the order of adding."""


def fill(store: Store, seed: int, groups: tuple[str, ...], weights: str = "w") -> None:
    found = records(seed, groups)
    store.append(REVISIONS[seed], found, dtype="BF16", weights_sha256=weights, groups=groups, collected_at=WHEN)


def extend(store: Store, groups: tuple[str, ...] = BOTH, **attributes: Any) -> None:
    store.add_groups(layout(groups), attributes={**ATTRIBUTES, **attributes}, probe_arrays=PROBE)


def test_a_group_joins_and_is_filled_later(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    store.plan(REVISIONS[:3])
    fill(store, 0, ("loss",))
    extend(store)
    assert store.groups == BOTH
    assert store.layout == layout(BOTH)
    assert store.recorded(REVISIONS[0].name) == {"loss"}
    assert store.recorded(REVISIONS[1].name) == store.recorded("never heard of") == frozenset()
    assert np.isnan(store.array("logits", "entropy")).all()
    assert store.table("logits").is_empty()
    group = xarray.open_zarr(store.path, group="logits")
    assert group.step.values.tolist() == [0, 10, 5]
    assert group.status.values.tolist() == [Status.NOT_MEASURED] * 3
    fill(store, 1, BOTH)
    fill(store, 0, BOTH)
    assert store.recorded(REVISIONS[0].name) == set(BOTH)
    assert store.table("logits")["revision"].to_list() == [each.name for each in REVISIONS[:2]]
    for name in ("logits/entropy", "loss/cross_entropy"):
        np.testing.assert_array_equal(store.array(*name.split("/")), [values(seed)[name] for seed in (0, 1)])
    row = store.row("loss", REVISIONS[1].name)
    np.testing.assert_array_equal(row["cross_entropy"], values(1)["loss/cross_entropy"], strict=True)


def test_what_is_recorded_is_not_written_again(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    fill(store, 0, ("loss",))
    store.append(REVISIONS[0], records(3, ("loss",)), dtype="F32", weights_sha256="w")
    np.testing.assert_array_equal(store.array("loss", "cross_entropy"), [values(0)["loss/cross_entropy"]])
    assert store.arrays("revisions")["dtype"].tolist() == ["BF16"]


def test_a_store_of_weights_is_given_activations_and_their_probe(tmp_path: Path) -> None:
    without = {**ATTRIBUTES, "probe": {}}
    store = RecordedStore.create(
        tmp_path / "s.zarr", layout=layout(("parameters",)), attributes=without, probe_arrays={}
    )
    add(store, REVISIONS[0], 0)
    extend(store, ("loss",))
    assert store.groups == ("parameters", "loss")
    assert store.attributes["probe"] == ATTRIBUTES["probe"]
    np.testing.assert_array_equal(store.probe()["token_id"], PROBE["token_id"])
    extend(store, ("parameters", "embeddings"), probe={})  # and of groups that need none
    assert store.groups == ("parameters", "embeddings", "loss")
    assert set(xarray.open_datatree(store.path).children) == {"revisions", "probe", *store.groups}
    assert open_store(store.path).layout == layout(store.groups)


def test_groups_of_other_settings_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss", "parameters"))
    other = f"{store.path} holds other settings: {{}}; use the same, or another store"
    with pytest.raises(StoreMismatchError, match=message(other.format("source is org/tiny, not org/other"))):
        extend(store, source="org/other")
    with pytest.raises(StoreMismatchError, match=message(other.format(f"probe sha256 is {'ab' * 6}, not {'cd' * 6}"))):
        extend(store, probe={"sha256": "cd" * 32})
    more = Layout({**axes(), "tensor": Axis("tensor", np.array(["a", "b"]))}, (GROUPS["parameters"],))
    with pytest.raises(StoreMismatchError, match=message(other.format("tensor has 3 labels, not 2"))):
        store.add_groups(more, attributes=ATTRIBUTES, probe_arrays=PROBE)
    assert store.groups == ("loss", "parameters")


def test_other_weights_and_unknown_groups_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", BOTH)
    fill(store, 0, ("loss",), "a" * 64)
    expected = (
        f"{store.path} holds {REVISIONS[0].name} measured from weights of sha256 {'a' * 12}, not {'b' * 12}; "
        "collect it into another store"
    )
    with pytest.raises(StoreMismatchError, match=message(expected)):
        fill(store, 0, ("logits",), "b" * 64)
    with pytest.raises(StoreError, match=message(f"{store.path} has no group tokens; it has logits, loss")):
        fill(store, 0, ("tokens",))
    with pytest.raises(
        StoreError, match=message(f"{store.path} does not hold logits of {REVISIONS[0].name}; collect it")
    ):
        store.row("logits", REVISIONS[0].name)


def test_killed_while_filled_in_a_group_counts_as_missing(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", BOTH)
    fill(store, 0, ("loss",))
    for writes in range(100):
        try:
            with killed_after(writes):
                fill(open_store(store.path, mode="a"), 0, ("logits",))
        except Killed:
            assert store.recorded(REVISIONS[0].name) == {"loss"}
            assert np.isnan(store.array("logits", "entropy")).all()
            assert not np.isnan(store.array("loss", "cross_entropy")).any()
        else:
            break
    assert writes > 15
    assert store.recorded(REVISIONS[0].name) == set(BOTH)


def fill_silent(store: Store, seed: int, group: Group) -> None:
    add_silent(store, REVISIONS[seed], seed, group)


def test_a_quantity_joins_and_is_filled_later(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    store.plan(REVISIONS[:3])
    fill_silent(store, 0, SILENT)
    wider = silent_layout(WIDER)
    assert store.lacking_quantities(silent_layout()) == {}
    assert store.lacking_quantities(wider) == {"silent": (WIDER["silent_mean"],)}
    store.add_quantities(wider)
    assert store.lacking_quantities(wider) == {}
    assert open_store(store.path).group("silent") == WIDER_AS_HELD
    assert store.recorded(REVISIONS[0].name) == frozenset()
    assert store.lacking("silent") == (REVISIONS[0].name,)
    assert store.done == {REVISIONS[0].name}
    np.testing.assert_array_equal(store.array("silent", "silent_share"), [silent_values(0)["silent_share"]])
    assert np.isnan(store.array("silent", "silent_mean")).all()
    fill_silent(store, 1, WIDER)
    fill_silent(store, 0, WIDER)
    assert store.lacking("silent") == ()
    for seed in (0, 1):
        row = store.row("silent", REVISIONS[seed].name)
        for name, expected in silent_values(seed).items():
            np.testing.assert_array_equal(row[name], expected)
    group = xarray.open_zarr(store.path, group="silent")
    assert group.recorded_2.values.tolist() == [1, 1, 0]
    assert group.silent_mean.attrs["mark"] == "recorded_2"
    assert "mark" not in group.silent_share.attrs
    assert set(group.data_vars) == {"silent_share", "silent_by_bin", "silent_mean", "status"}


def test_numbers_that_are_there_never_change(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    fill_silent(store, 0, SILENT)
    store.add_quantities(silent_layout(WIDER))
    others = silent_records(3, WIDER)
    store.append(REVISIONS[0], others, dtype="F32", weights_sha256=f"{0:064d}")
    row = store.row("silent", REVISIONS[0].name)
    np.testing.assert_array_equal(row["silent_share"], silent_values(0)["silent_share"])
    np.testing.assert_array_equal(row["silent_mean"], silent_values(3)["silent_mean"])
    assert store.arrays("revisions")["dtype"].tolist() == ["BF16"]
    store.add_quantities(silent_layout(MORE))
    with pytest.raises(StoreMismatchError, match="measured from weights of sha256"):
        store.append(REVISIONS[0], silent_records(0, WIDER), dtype="BF16", weights_sha256="b" * 64)


def test_each_addition_has_a_mark_of_its_own(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    fill_silent(store, 0, SILENT)
    store.add_quantities(silent_layout(WIDER))
    store.add_quantities(silent_layout(MORE))
    nodes = xarray.open_zarr(store.path, group="silent")
    assert nodes.silent_most.attrs["mark"] == "recorded_3"
    assert {"recorded", "recorded_2", "recorded_3", "quantile"} <= set(nodes.coords)
    fill_silent(store, 0, WIDER)
    assert store.recorded(REVISIONS[0].name) == {"silent"}
    assert store.array("silent", "silent_most").tolist() == [-1]  # filled in without a record


def test_quantities_that_the_code_no_longer_knows_stay_readable(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr", WIDER)
    fill_silent(store, 0, WIDER)
    store.check_same(silent_layout(SILENT), ATTRIBUTES)
    fill_silent(store, 1, SILENT)
    assert store.recorded(REVISIONS[1].name) == {"silent"}
    means = store.array("silent", "silent_mean")
    np.testing.assert_array_equal(means[0], silent_values(0)["silent_mean"])
    assert np.isnan(means[1]).all()
    assert store.table("silent.silent_mean")["revision"].unique().to_list() == [REVISIONS[0].name]


def test_records_of_quantities_that_the_store_lacks_are_passed_over(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    fill_silent(store, 0, WIDER)
    assert [each.name for each in store.quantities("silent")] == ["silent_share", "silent_by_bin", "status"]
    assert store.recorded(REVISIONS[0].name) == {"silent"}


def test_added_quantities_are_compacted_by_their_own_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmo_dynamics.store.zarr_format.CHUNK_BYTES", 50)
    store = new_silent_store(tmp_path / "s.zarr")
    for seed in (0, 1):
        fill_silent(store, seed, SILENT)
    store.compact()
    store.add_quantities(silent_layout(WIDER))
    assert not store.is_compact
    fill_silent(store, 1, WIDER)
    before = {name: store.array("silent", name) for name in ("silent_share", "silent_by_bin", "silent_mean")}
    store.compact()
    assert store.is_compact
    for name, expected in before.items():
        np.testing.assert_array_equal(store.array("silent", name), expected)
    np.testing.assert_array_equal(before["silent_mean"][1], silent_values(1)["silent_mean"])
    assert np.isnan(before["silent_mean"][0]).all()
    assert store.array("silent", "silent_mean", at={"quantile": 0.5}).shape == (2, 3)


def test_killed_while_a_quantity_is_filled_in_it_counts_as_missing(tmp_path: Path) -> None:
    store = new_silent_store(tmp_path / "s.zarr")
    fill_silent(store, 0, SILENT)
    for writes in range(100):
        try:
            with killed_after(writes):
                again = open_store(store.path, mode="a")
                again.add_quantities(silent_layout(WIDER))
                fill_silent(again, 0, WIDER)
        except Killed:
            found = open_store(store.path)
            assert found.done == {REVISIONS[0].name}
            np.testing.assert_array_equal(found.array("silent", "silent_share"), [silent_values(0)["silent_share"]])
            if "silent_mean" in found.group("silent"):
                assert np.isnan(found.array("silent", "silent_mean")).all()
        else:
            break
    assert writes > 5
    assert open_store(store.path).recorded(REVISIONS[0].name) == {"silent"}


operations = st.one_of(
    st.tuples(st.just("plan"), st.integers(0, 3)),
    st.tuples(st.just("append"), st.integers(0, 3), st.sampled_from([("loss",), ("logits",), BOTH])),
    st.tuples(st.just("add groups")),
    st.tuples(st.just("compact")),
)


def perform(store: RecordedStore, operation: tuple[Any, ...]) -> None:
    if operation[0] == "plan":
        store.plan([REVISIONS[operation[1]]])
    elif operation[0] == "append":
        fill(store, operation[1], tuple(each for each in operation[2] if each in store.groups))
    elif operation[0] == "add groups":
        extend(store)
    else:
        store.compact()


def model_after(model: dict[int, set[str]], groups: set[str], operation: tuple[Any, ...]) -> None:
    """What a store holds after an operation: by revision the groups that are there."""
    if operation[0] == "append":
        found = set(operation[2]) & groups
        if found:
            model.setdefault(operation[1], set()).update(found)
    elif operation[0] == "add groups":
        groups.update(BOTH)


def check(path: Path, model: dict[int, set[str]], groups: set[str]) -> None:
    store = open_store(path)
    assert set(store.groups) == groups
    for seed, revision in enumerate(REVISIONS):
        assert store.recorded(revision.name) == model.get(seed, set())
    tree = xarray.open_datatree(path)
    for key in values(0, tuple(sorted(groups))):
        group, name = key.split("/")
        for row, revision in enumerate(tree[group].revision.values.tolist()):
            seed = next(index for index, each in enumerate(REVISIONS) if each.name == revision)
            if group in model.get(seed, set()):
                expected = values(seed, (group,))[key]
                np.testing.assert_array_equal(tree[group][name][row], expected)
                np.testing.assert_array_equal(store.row(group, revision)[name], expected)
    tree.close()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(operations, st.none() | st.integers(0, 60)), min_size=3, max_size=8))
def test_any_sequence_leaves_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[tuple[Any, ...], int | None]]
) -> None:
    """Plan, append, back-fill, add groups, compact, killed or not and then done again: equal to a dict of arrays."""
    path = tmp_path_factory.mktemp("any") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("olmo_dynamics.store.zarr_format.CHUNK_BYTES", 50)
        new_store(path, ("loss",))
        model: dict[int, set[str]] = {}
        groups = {"loss"}
        for operation, killed in steps:
            try:
                if killed is not None:
                    with killed_after(killed):
                        perform(open_store(path, mode="a"), operation)
            except Killed:
                open_store(path)
            perform(open_store(path, mode="a"), operation)
            model_after(model, groups, operation)
        check(path, model, groups)
