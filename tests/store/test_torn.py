"""Every file of a store is deleted, emptied, cut and has a bit flipped: numbers are right or an error names the place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import xarray
from click.testing import CliRunner

from olmo_dynamics.cli import cli
from olmo_dynamics.errors import StoreDamagedError
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.store import Damage
from tests.store.silent import SILENT, WIDER, add_silent, new_silent_store, silent_layout
from tests.store.synthetic import ATTRIBUTES, PROBE, REVISIONS, add, layout, new_store
from tests.store.test_back_fill import fill
from tests.store.test_layout import message

STATES = ("log", "compacted", "back-filled", pytest.param("large rows", marks=pytest.mark.slow))
REMEDY = "run olmo-dyn collect again, which measures damaged revisions anew"


def make(path: Path, state: str) -> RecordedStore:
    """A store of three revisions, one of them only planned."""
    if state == "back-filled":
        store = new_silent_store(path)
        store.plan(REVISIONS[:3])
        for seed in (0, 1):
            add_silent(store, REVISIONS[seed], seed, SILENT)
        store.add_quantities(silent_layout(WIDER))
        for seed in (0, 1):
            add_silent(store, REVISIONS[seed], seed, WIDER)
        return store
    store = new_store(path, ("loss",))
    store.plan(REVISIONS[:3])
    for seed in (0, 1):
        add(store, REVISIONS[seed], seed)
    if state == "compacted":
        store.add_groups(layout(("loss", "logits")), attributes=ATTRIBUTES, probe_arrays=PROBE)
        fill(store, 1, ("logits",), f"{1:064d}")
        store.compact()
    return store


@pytest.fixture(params=STATES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedStore:
    if request.param == "large rows":
        monkeypatch.setattr("olmo_dynamics.store.zarr_format.CHUNK_BYTES", 50)
    return make(tmp_path / "s.zarr", request.param)


def read(path: Path) -> dict[str, pl.DataFrame]:
    store = open_store(path)
    return {name: store.table(name) for name in store.tables}


def is_same(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> bool:
    return found.keys() == expected.keys() and all(found[name].equals(frame) for name, frame in expected.items())


def damages_of(data: bytes, draw: random.Random) -> Iterator[bytes | None]:
    place = draw.randrange(len(data))
    yield from (None, b"", data[: len(data) // 2])
    yield data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def damage(file: Path, content: bytes | None) -> None:
    file.unlink() if content is None else file.write_bytes(content)


def sweep(store: RecordedStore, every: int) -> int:
    """Damage every so many files in four ways each; returns the number of damages."""
    expected, draw, count, refused = read(store.path), random.Random(0), 0, 0
    for file in sorted(each for each in store.path.rglob("*") if each.is_file())[::every]:
        whole = file.read_bytes()
        for content in damages_of(whole, draw):
            damage(file, content)
            try:
                assert is_same(read(store.path), expected), (file, content)
            except StoreDamagedError:
                refused += 1
            check_named(store.path, file)
            file.write_bytes(whole)
            count += 1
    assert open_store(store.path).check().damages == ()
    assert 0 < refused < count
    return count


def check_named(path: Path, file: Path) -> None:
    """A check names the damaged array, and the command ends with 2."""
    if file.parent == path:
        with pytest.raises(StoreDamagedError, match="is missing or does not have its checksum"):
            open_store(path)
        return
    node = "/".join(file.relative_to(path).parts[:2]) if file.parent.parent != path else file.parent.name
    named = [each.array.removeprefix("series of ") for each in open_store(path).check().damages]
    assert set(named) == {node}, (file, named)


def test_no_damage_is_read_as_a_number(store: RecordedStore) -> None:
    assert sweep(store, every=7) > 30


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_damage_at_all_is_read_as_a_number(store: RecordedStore) -> None:
    assert sweep(store, every=1) > 200


def test_what_is_damaged_is_measured_anew(store: RecordedStore) -> None:
    expected, draw = read(store.path), random.Random(1)
    group = store.groups[-1]
    add_again = add_silent if group == "silent" else add
    for file in sorted(each for each in store.path.rglob("*") if each.is_file() and each.parent != store.path)[::17]:
        for content in damages_of(file.read_bytes(), draw):
            damage(file, content)
            again = open_store(store.path, mode="a")
            assert again.repair(REVISIONS[:3]).damages
            again.restore_labels(silent_layout(WIDER) if group == "silent" else layout(again.groups), PROBE)
            for seed in (0, 1):
                again.plan(REVISIONS[:3])
                add_again(again, REVISIONS[seed], seed, *([WIDER] if group == "silent" else []))
            again.compact()
            assert open_store(store.path).check().damages == (), (file, content)
            if "logits" in again.groups:  # of which one revision has no numbers, before it is measured anew
                assert read(store.path)["loss"].equals(expected["loss"])
            else:
                assert is_same(read(store.path), expected), (file, content)


@pytest.mark.parametrize(
    "name", ["loss/cross_entropy/0.0", "loss/cross_entropy/c/0/0", "loss/revision/0", "loss/domain/0"]
)
def test_xarray_refuses_a_flipped_bit(tmp_path: Path, name: str) -> None:
    store = make(tmp_path / "s.zarr", "compacted" if "/c/" in name else "log")
    file = store.path / name
    data = bytearray(file.read_bytes())
    data[3 if "/c/" in name else -6] ^= 4
    file.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        xarray.open_zarr(store.path, group="loss").load()


def test_an_error_names_the_revision_and_the_array(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", "log")
    file = store.path / "loss" / "cross_entropy" / "0.0"
    file.write_bytes(file.read_bytes()[:-1])  # the last row lacks a byte
    expected = (
        f"{store.path}: loss/cross_entropy of {REVISIONS[1].name} is damaged (the checksum does not match); {REMEDY}, and "
        f"olmo-dyn show {store.path} --check to see all damage"
    )
    with pytest.raises(StoreDamagedError, match=message(expected)):
        open_store(store.path).table("loss")
    row = open_store(store.path).row("loss", REVISIONS[0].name)["cross_entropy"]
    np.testing.assert_array_equal(row, store.row("loss", REVISIONS[0].name)["cross_entropy"])
    found = Damage("loss/cross_entropy", (1,), "the checksum does not match", (REVISIONS[1].name,))
    assert open_store(store.path).check().damages == (found,)


def test_the_command_verifies(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", "log")
    whole = CliRunner().invoke(cli, ["show", str(store.path), "--check"])
    assert (whole.exit_code, whole.stdout.split("damaged")[1].strip()) == (0, "none")
    (store.path / "loss" / "status" / "0.0").unlink()
    outcome = CliRunner().invoke(cli, ["show", str(store.path), "--check"])
    assert isinstance(outcome.exception, StoreDamagedError)
    place = f"loss/status of {REVISIONS[0].name}, {REVISIONS[1].name}, {REVISIONS[2].name}: its file is missing"
    assert place in outcome.stdout
    assert str(outcome.exception) == f"{store.path} is damaged in 1 place, first {place}; {REMEDY}"


def test_damaged_rows_count_as_missing_for_a_plan(tmp_path: Path) -> None:
    store = make(tmp_path / "s.zarr", "log")
    (store.path / "revisions" / "status" / "0").write_bytes(b"")
    again = open_store(store.path)
    again.disregard(again.check())
    assert again.done == frozenset()
    assert set(again.missing) == {each.name for each in REVISIONS[:3]}
