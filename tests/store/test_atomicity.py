"""A writer killed between any two files leaves a store that opens, and a second run leaves the undisturbed one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from olmo_dynamics.errors import StoreError
from olmo_dynamics.frames import open_store
from tests.store.synthetic import REVISIONS, add, new_store, values

GROUPS = ("loss",)
OPENED = ("revisions", "probe", *GROUPS)


class Killed(BaseException):
    """Not an `Exception`: nothing that mends errors sees it, as nothing sees a kill."""


@contextmanager
def before_each_file(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with the count of changes so far, each time before a file gets its name, or bytes get their place."""
    count = 0

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def function(*given: Any) -> Any:
            nonlocal count
            act(count)
            count += 1
            return original(*given)

        return function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", watched(os.pwrite))
        patch.setattr(os, "replace", watched(os.replace))
        patch.setattr(Path, "rename", watched(Path.rename))
        yield


@contextmanager
def killed_after(writes: int) -> Iterator[None]:
    def die(count: int) -> None:
        if count == writes:
            raise Killed

    with before_each_file(die):
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def second_run(path: Path) -> None:
    store = open_store(path, mode="a")
    store.plan(REVISIONS[1:3])
    if REVISIONS[1].name not in store.done:
        add(store, REVISIONS[1], 1)


def check_readable(path: Path) -> None:
    """Every group opens, labelled and of one length; what was complete is unharmed."""
    lengths = {xarray.open_zarr(path, group=group).sizes.get("revision") for group in OPENED if group != "probe"}
    assert lengths in ({1}, {3})
    store = open_store(path)
    assert REVISIONS[0].name in store.done
    seeds = [seed for seed, each in enumerate(REVISIONS) if each.name in store.done]
    rows = [values(seed, GROUPS)["loss/cross_entropy"] for seed in seeds]
    np.testing.assert_array_equal(store.array("loss", "cross_entropy"), rows)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one revision of three."""
    path = tmp_path_factory.mktemp("begun") / "s.zarr"
    add(new_store(path, GROUPS), REVISIONS[0], 0)
    return path


@pytest.fixture(scope="module")
def undisturbed(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """The bytes of an undisturbed second run, and how many files it wrote."""
    path = tmp_path_factory.mktemp("undisturbed") / "s.zarr"
    shutil.copytree(begun, path)
    counts: list[int] = []
    with before_each_file(counts.append):
        second_run(path)
    return contents(path), len(counts)


def test_every_group_opens_at_every_moment(begun: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(begun, path)
    with before_each_file(lambda count: check_readable(path)):
        second_run(path)
    check_readable(path)
    assert set(xarray.open_datatree(path).children) == set(OPENED)


def test_killed_between_any_two_files_and_run_again(
    begun: Path, undisturbed: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    expected, writes = undisturbed
    assert writes > 40
    for survived in range(writes):
        path = tmp_path / f"{survived}.zarr"
        shutil.copytree(begun, path)
        with killed_after(survived), pytest.raises(Killed):
            second_run(path)
        assert open_store(path).done == {REVISIONS[0].name}
        second_run(path)
        assert contents(path) == expected, f"killed after {survived} files"


def test_killed_by_the_system_leaves_its_lock_and_a_store_to_go_on_with(
    begun: Path, undisturbed: tuple[dict[str, bytes], int], tmp_path: Path
) -> None:
    path = tmp_path / "s.zarr"
    shutil.copytree(begun, path)
    script = f"""
import os
from pathlib import Path
from tests.store.test_atomicity import second_run
from tests.store.test_atomicity import before_each_file
def die(count):
    if count == {undisturbed[1] - 10}:
        os.kill(os.getpid(), 9)
with before_each_file(die):
    second_run(Path({str(path)!r}))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == -9
    assert sorted(each.name for each in tmp_path.iterdir()) == ["s.zarr", "s.zarr.lock", "s.zarr.partial"]
    check_readable(path)
    second_run(path)
    assert contents(path) == undisturbed[0]
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


def test_a_store_killed_while_it_was_made_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with killed_after(0), pytest.raises(Killed):
        new_store(path, GROUPS)
    with pytest.raises(StoreError, match="there is no store at"):
        open_store(path)
    (tmp_path / "s.zarr.building" / "left").mkdir(parents=True)  # what a kill that nothing sees leaves
    assert new_store(path, GROUPS).done == frozenset()
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]
