"""Stores published to buckets, folders and .zip files: the same bytes, the same tables, whatever stops the copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray
from click.testing import CliRunner
from zarr.storage import ZipStore

import olmo_dynamics as od
from olmo_dynamics.cli import cli
from olmo_dynamics.errors import StoreBusyError, StoreDamagedError, StoreError, StoreMismatchError
from olmo_dynamics.files import as_place
from olmo_dynamics.files.buckets import Bucket
from olmo_dynamics.store.locks import locked
from tests.remote.reading import contents
from tests.store.synthetic import REVISIONS, add, filled_store, new_store

GROUPS = ("loss", "sketches")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three finished revisions of four."""
    path = tmp_path_factory.mktemp("local") / "s.zarr"
    filled_store(path, GROUPS)
    return path


def test_a_copy_in_a_bucket_is_read_like_the_store(bucket: str, local: Path, tmp_path: Path) -> None:
    address = f"{bucket}/stores/s.zarr"
    copied = od.copy_store(local, address)
    assert (copied.files, copied.already_there, copied.verified) == (len(contents(local)), 0, len(contents(local)))
    assert contents(address) == contents(local)
    there, here = od.open_store(address), od.open_store(local)
    assert str(there.path) == address and there.done == here.done and there.missing == here.missing
    assert there.sizes() == here.sizes()
    for name in here.tables:
        assert there.table(name).equals(here.table(name))
    assert od.copy_store(address, tmp_path / "back.zarr").verified == copied.verified
    assert contents(tmp_path / "back.zarr") == contents(local)
    again = od.copy_store(local, address)
    assert (again.files, again.nbytes, again.already_there) == (0, 0, copied.files)


def test_series_in_a_bucket_are_read_through_zarr(bucket: str, local: Path, tmp_path: Path) -> None:
    path, address = tmp_path / "c.zarr", f"{bucket}/c.zarr"
    shutil.copytree(local, path)
    store = od.open_store(path, mode="a")
    store.compact()
    od.copy_store(store, address)
    there = od.open_store(address)
    assert there.is_compact
    place = {"domain": "code"}
    np.testing.assert_array_equal(
        there.array("loss", "cross_entropy", at=place), store.array("loss", "cross_entropy", at=place)
    )
    opened = xarray.open_zarr(_zarr(address), group="loss")
    expected = xarray.open_zarr(path, group="loss").cross_entropy.values
    np.testing.assert_array_equal(opened.cross_entropy.values, expected)


def _zarr(address: str) -> object:
    from olmo_dynamics.store.remote.zarr_access import zarr_store

    return zarr_store(as_place(address))


def test_a_copy_is_continued_after_a_kill_and_is_not_there_before(
    bucket: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, writes = f"{bucket}/s.zarr", 0
    write = Bucket.write

    def dying(self: Bucket, key: str, data: bytes) -> object:
        nonlocal writes
        writes += 1
        if writes > 30:
            raise KeyboardInterrupt
        return write(self, key, data)

    monkeypatch.setattr(Bucket, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        od.copy_store(local, address)
    monkeypatch.setattr(Bucket, "write", write)
    with pytest.raises(StoreError, match="there is no store at"):
        od.open_store(address)
    copied = od.copy_store(local, address)
    assert copied.already_there >= 10 and copied.files + copied.already_there == len(contents(local))
    assert contents(address) == contents(local)


def test_a_copy_of_an_older_state_is_brought_up_to_date(bucket: str, local: Path, tmp_path: Path) -> None:
    path, address = tmp_path / "s.zarr", f"{bucket}/s.zarr"
    shutil.copytree(local, path)
    od.copy_store(path, address)
    store = od.open_store(path, mode="a")
    add(store, REVISIONS[2], 2)
    copied = od.copy_store(path, address)
    assert 0 < copied.files < copied.already_there + copied.files == len(contents(path))
    assert od.open_store(address).done == {each.name for each in REVISIONS}
    with pytest.raises(
        StoreError, match=f"{address} holds 1 revision that {local} lacks, such as {REVISIONS[2].name}; "
    ):
        od.copy_store(local, address)


def test_a_copy_does_not_replace_what_is_something_else(bucket: str, local: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    store = new_store(other, ("loss",))
    store.rename_source("org/other")
    od.copy_store(other, f"{bucket}/s.zarr")
    with pytest.raises(StoreMismatchError, match="holds another store: source is org/other, not org/tiny; "):
        od.copy_store(local, f"{bucket}/s.zarr")
    as_place(f"{bucket}/data").tree.objects.write("data/mine.txt", b"mine")
    with pytest.raises(StoreError, match=rf"^{bucket}/data holds objects that are no store; choose another address"):
        od.copy_store(local, f"{bucket}/data")
    with locked(as_place(f"{bucket}/held.zarr")), pytest.raises(StoreBusyError, match="is being written by process"):
        od.copy_store(local, f"{bucket}/held.zarr")


def test_a_damaged_copy_is_told(bucket: str, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Bucket.write

    def flipping(self: Bucket, key: str, data: bytes) -> object:
        return write(self, key, bytes([data[0] ^ 1]) + data[1:] if key.endswith("loss/cross_entropy/0.0") else data)

    monkeypatch.setattr(Bucket, "write", flipping)
    with pytest.raises(StoreDamagedError, match=r"is damaged in 1 place, first loss/cross_entropy of .*copy it again"):
        od.copy_store(local, f"{bucket}/s.zarr")


def test_a_zip_is_read_in_place_and_not_changed(local: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.zip"
    copied = od.copy_store(local, target)
    assert copied.verified == copied.files == len(contents(local))
    assert contents(target) == contents(local)
    store, here = od.open_store(target), od.open_store(local)
    assert store.table("loss").equals(here.table("loss"))
    np.testing.assert_array_equal(
        xarray.open_zarr(ZipStore(target, mode="r"), group="loss").cross_entropy.values,
        xarray.open_zarr(local, group="loss").cross_entropy.values,
    )
    with pytest.raises(StoreError, match=r"s\.zip can only be read; copy the store into a folder or a bucket"):
        add(od.open_store(target, mode="a"), REVISIONS[2], 2)
    with pytest.raises(StoreError, match=r"exists already, and a \.zip file is not changed"):
        od.copy_store(local, target)
    shutil.make_archive(str(tmp_path / "by_hand"), "zip", local.parent, local.name)
    assert od.open_store(tmp_path / "by_hand.zip").done == here.done
    assert contents(_back(target, tmp_path)) == contents(local)
    target.write_bytes(target.read_bytes()[:1000])
    with pytest.raises(StoreDamagedError, match=r"is not a whole .zip file"):
        od.open_store(target)


def _back(target: Path, tmp_path: Path) -> Path:
    od.copy_store(target, tmp_path / "back.zarr")
    return tmp_path / "back.zarr"


def test_the_commands_take_addresses(bucket: str, local: Path, tmp_path: Path) -> None:
    address, run = f"{bucket}/s.zarr", CliRunner().invoke
    files = len(contents(local))
    copied = run(cli, ["copy", str(local), address, "--format", "json", "--quiet"], catch_exceptions=False)
    assert f'"store": "{address}", "copied": {files}, ' in copied.stdout
    assert f'"verified": {files}' in copied.stdout
    shown = run(cli, ["show", address, "--check"], catch_exceptions=False)
    assert shown.exit_code == 0 and address in shown.stdout and f"{files} files" in shown.stdout
    page = tmp_path / "report.html"
    assert run(cli, ["report", address, "--out", str(page)], catch_exceptions=False).exit_code == 0
    assert page.is_file()
    table = tmp_path / "loss.csv"
    assert run(cli, ["export", address, "loss", "--out", str(table)], catch_exceptions=False).exit_code == 0
    assert od.open_store(local).table("loss").height == len(table.read_text().splitlines()) - 1
