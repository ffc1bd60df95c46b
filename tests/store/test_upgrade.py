"""Stores of layout 2 keep their layout until they are compacted, which gives them checksums and changes no number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

from olmo_dynamics.frames import open_store
from olmo_dynamics.store import Check
from tests.store.layout2 import MEASURED, STATES, unpack
from tests.store.test_atomicity import Killed, killed_after
from tests.store.test_series import as_dict, assert_same


@pytest.mark.parametrize("state", STATES)
def test_compaction_upgrades_and_changes_no_number(tmp_path: Path, state: str) -> None:
    path = unpack(tmp_path) / f"{state}.zarr"
    store = open_store(path, mode="a")
    before, ours = as_dict(path), {group: store.arrays(group) for group in store.groups}
    assert store.check().verified == 0
    store.compact()
    after = open_store(path)
    assert (after.attributes["layout_version"], after.is_compact, after.done) == (3, True, set(MEASURED))
    assert_same(as_dict(path), before)
    for group, arrays in ours.items():
        assert_same(after.arrays(group), arrays)
    found = after.check()
    assert (found.damages, found.unverified) == ((), 0)
    assert not list(path.rglob("c.*"))
    assert found.verified == sum(each.is_file() for each in path.rglob("*"))


def test_a_store_that_is_continued_keeps_its_layout(tmp_path: Path) -> None:
    path = unpack(tmp_path) / "log.zarr"
    store = open_store(path, mode="a")
    store.compact(keep_layout=True)
    assert (open_store(path).attributes["layout_version"], store.is_compact) == (2, True)
    assert store.check() == Check((), 0, sum(each.is_file() for each in path.rglob("*")))


def test_killed_at_any_moment_an_upgrade_loses_nothing_and_is_begun_anew(tmp_path: Path) -> None:
    path = unpack(tmp_path) / "log.zarr"
    expected = {name: values for name, values in as_dict(path).items() if name.startswith("loss/")}
    kills = 0
    for writes in (0, 5, 40, 90, 200, 300, 330, 360, 400, 600):
        try:
            with killed_after(writes):
                open_store(path, mode="a").compact()
        except Killed:
            kills += 1
        with xarray.open_zarr(path, group="loss") as found:
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name.removeprefix("loss/")], values)
        assert open_store(path).done == set(MEASURED)
    assert kills > 4
    open_store(path, mode="a").compact()
    assert open_store(path).check().damages == ()
