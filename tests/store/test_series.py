"""Compaction turns arrays and changes no number, for us and for xarray, before, during and after."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.cli import cli
from olmo_dynamics.errors import DiskFullError, StoreBusyError
from olmo_dynamics.frames import open_store
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.store import series
from olmo_dynamics.store.appending import write_document
from olmo_dynamics.store.zarr_format import ArraySpec
from tests.store.synthetic import ATTRIBUTES, PROBE, REVISIONS, add, filled_store, layout, new_store
from tests.store.test_atomicity import Killed, contents, killed_after
from tests.store.test_zarr_format import write_rows


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that the rows of a tiny store are large."""
    monkeypatch.setattr("olmo_dynamics.store.zarr_format.CHUNK_BYTES", 50)


def as_dict(path: Path) -> dict[str, np.ndarray]:
    """Every array as xarray reads it, without our code."""
    with xarray.open_datatree(path) as tree:
        return {
            f"{group}/{name}": np.asarray(array)
            for group in tree.children
            for name, array in tree[group].variables.items()
        }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@st.composite
def logs(draw: st.DrawFn) -> tuple[ArraySpec, np.ndarray, np.ndarray]:
    """An array of more than two axes or fewer, its rows, and which of them are there."""
    row = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    rows = draw(st.sampled_from([1, 5, 512, 513, 1030]))
    dtype = draw(st.sampled_from(["float64", "float32", "int64", "uint8"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    found = rng.integers(0, 250, (rows, *row)).astype(dtype)
    names = ("revision", "b", "c", "d")[: 1 + len(row)]
    spec = ArraySpec(
        "group/array", names, found.shape, (draw(st.sampled_from([1, 4, 256])), *row), dtype, {"units": "1"},
        is_checked=draw(st.booleans()),
    )  # fmt: skip
    return spec, found, rng.random(rows) < 0.9


@settings(max_examples=12, deadline=None)
@given(logs(), st.sampled_from([1 << 9, 1 << 12, 1 << 14, 1 << 18]), st.sampled_from([1 << 12, 1 << 27]))
def test_shards_hold_what_the_log_holds(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[ArraySpec, np.ndarray, np.ndarray],
    piece_bytes: int,
    pass_bytes: int,
) -> None:
    spec, rows, is_there = drawn
    store = tmp_path_factory.mktemp("series") / "store"
    write_rows(store, spec, 0, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "PIECE_BYTES", piece_bytes)
        patch.setattr(series, "PASS_BYTES", pass_bytes)
        write_document(store, spec.path, series.series_document(spec))
        for number in range(-(-len(rows) // 512)):
            shard = b"".join(series.shard_bytes(store, spec, number, is_there))
            path = series.shard_path(store, spec, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(shard)
            assert not spec.is_checked or series.check_shard(path, spec) == ""
    array = zarr.open_array(store, path=spec.path, mode="r")
    expected = np.where(is_there.reshape(-1, *[1] * (rows.ndim - 1)), rows, np.array(spec.fill).astype(spec.dtype))
    np.testing.assert_array_equal(array[...], expected)
    np.testing.assert_array_equal(array[(slice(None), *[-1] * (rows.ndim - 1))], expected.reshape(len(rows), -1)[:, -1])


def test_compaction_changes_no_number(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.zarr")
    before, ours = as_dict(store.path), {group: store.arrays(group) for group in GROUPS}
    assert not store.is_compact
    store.compact()
    assert open_store(store.path).is_compact
    assert_same(as_dict(store.path), before)
    for group in GROUPS:
        assert_same(store.arrays(group), ours[group])
    picked = store.array("outliers", "feature_fraction_above", at={"threshold": 6.0, "input": "mlp_input"})
    np.testing.assert_array_equal(picked, ours["outliers"]["feature_fraction_above"][:, 1, :, 4])
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


def test_one_series_is_a_piece_of_one_file(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.zarr", ("outliers",))
    at = {"input": "mlp_input", "layer": 1, "feature": 3, "threshold": 6.0}
    expected = store.array("outliers", "feature_fraction_above", at=at)
    store.compact()
    log = tmp_path / "log"
    log.mkdir()
    for file in (store.path / "outliers" / "feature_fraction_above").glob("c.*"):
        file.rename(log / file.name)
    np.testing.assert_array_equal(store.array("outliers", "feature_fraction_above", at=at), expected)
    series_only = xarray.open_zarr(store.path, group="outliers").feature_fraction_above
    assert series_only.encoding["shards"][0] == 512
    np.testing.assert_array_equal(series_only.sel(revision="main", **at), expected[0])


@pytest.mark.usefixtures("small_chunks")
def test_appending_goes_on_after_compaction(tmp_path: Path) -> None:
    once, twice = (new_store(tmp_path / name, ("loss", "logits")) for name in ("once.zarr", "twice.zarr"))
    for seed, revision in enumerate(REVISIONS):
        add(once, revision, seed)
        add(twice, revision, seed)
        twice.compact()
    assert_same(as_dict(twice.path), as_dict(once.path))
    once.compact()
    assert contents(once.path) == contents(twice.path)
    twice.plan([Revision("another")])
    assert not twice.is_compact
    assert as_dict(twice.path)["loss/cross_entropy"].shape == (5, 2)


@pytest.mark.usefixtures("small_chunks")
def test_who_had_the_store_open_reads_on(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    add(store, REVISIONS[0], 0)
    expected = as_dict(store.path)["loss/cross_entropy"]
    of_log = xarray.open_zarr(store.path, group="loss")
    store.compact()
    of_series = xarray.open_zarr(store.path, group="loss")
    np.testing.assert_array_equal(of_log.cross_entropy, expected)
    add(store, REVISIONS[1], 1)
    store.compact()
    np.testing.assert_array_equal(of_series.cross_entropy, expected)


def kills(path: Path) -> Iterator[None]:
    """Compact `path`, killed after one change more each time, until it is through."""
    writes = 0
    while True:
        try:
            with killed_after(writes):
                open_store(path, mode="a").compact()
        except Killed:
            yield
            writes += 1
        else:
            return


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_killed_at_any_moment_compaction_loses_nothing_and_is_begun_anew(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.zarr", ("loss",))
    expected = as_dict(store.path)
    count = 0
    for _ in kills(store.path):
        count += 1
        assert_same(as_dict(store.path), expected)
        add(open_store(store.path, mode="a"), REVISIONS[0], 0)  # already there: nothing changes
    assert count > 8
    assert open_store(store.path).is_compact
    assert_same(as_dict(store.path), expected)
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_while_compacting_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "s.zarr", ("loss",))
    before = contents(store.path)

    def fail(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(series, "compress", fail)
        with pytest.raises(DiskFullError, match="no room left on the disk of"):
            store.compact()
    assert contents(store.path) == before
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]
    store.compact()
    assert store.is_compact


def test_a_part_that_is_written_is_not_compacted(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.zarr", ("loss",))
    with (
        open_store(store.path, mode="a").lock("1/2"),
        pytest.raises(StoreBusyError, match="is being written by process"),
    ):
        store.compact()


@pytest.mark.usefixtures("small_chunks")
def test_further_groups_join_a_compacted_store(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.zarr", ("loss",))
    store.compact()
    before = as_dict(store.path)
    store.add_groups(layout(("loss", "logits")), attributes=ATTRIBUTES, probe_arrays=PROBE)
    after = as_dict(store.path)
    assert_same({name: after[name] for name in before}, before)
    assert store.groups == ("logits", "loss")
    assert store.recorded("main") == {"loss"}
    assert after["logits/recorded"].tolist() == [0, 0, 0, 0]


def test_the_command_compacts_and_show_says_so(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.zarr", ("outliers",))
    store.add_groups(layout(("loss",)), attributes=ATTRIBUTES, probe_arrays=PROBE)
    assert json.loads(CliRunner().invoke(cli, ["show", str(store.path), "--format", "json"]).output)["compact"] is False
    outcome = CliRunner().invoke(cli, ["compact", str(store.path), "--format", "json"])
    facts = json.loads(outcome.output)
    assert facts["before"] < facts["after"] == sum(store.sizes().values())
    facts = json.loads(CliRunner().invoke(cli, ["show", str(store.path), "--format", "json"]).output)
    assert facts["compact"] is True
    assert facts["lacking"] == {"loss": sorted(open_store(store.path).done)}
