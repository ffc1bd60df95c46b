"""A copy that is taken while a store is written has fewer finished rows, never holes in finished ones."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.frames import open_store
from tests.store.synthetic import ATTRIBUTES, PROBE, REVISIONS, add, layout, new_store, values
from tests.store.test_atomicity import before_each_file

BOTH = ("logits", "loss")


class Copier:
    """Copies a folder file by file; it lists each folder once, when it begins there."""

    def __init__(self, source: Path, target: Path, order: str, draw: random.Random) -> None:
        self._source, self._target, self._order, self._draw = source, target, order, draw
        self._folders: list[Path] = [source]
        self._files: list[Path] = []

    def copy_one(self) -> bool:
        """Copy one file; returns False when all are copied."""
        while not self._files and self._folders:
            inside = sorted(self._folders.pop(0).iterdir(), reverse=self._order == "last first")
            self._folders += [each for each in inside if each.is_dir()]
            self._files += [each for each in inside if each.is_file()]
            if self._order == "any":
                self._draw.shuffle(self._folders)
        if not self._files:
            return False
        file = self._files.pop(0)
        if file.exists():
            target = self._target / file.relative_to(self._source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return True


def write(path: Path) -> None:
    """Plan, append, compact, add a group and fill it."""
    store = open_store(path, mode="a")
    store.plan(REVISIONS[:3])
    add(store, REVISIONS[1], 1)
    store.compact()
    store.add_groups(layout(BOTH), attributes=ATTRIBUTES, probe_arrays=PROBE)
    add(store, REVISIONS[0], 0)
    add(store, REVISIONS[2], 2)


def check(path: Path) -> set[str]:
    """Each finished row has all of its numbers, in each group that it is recorded in; returns these rows."""
    store = open_store(path)
    for seed, revision in enumerate(REVISIONS):
        if revision.name in store.done:
            for group in store.recorded(revision.name):
                for name, row in store.row(group, revision.name).items():
                    np.testing.assert_array_equal(row, values(seed, (group,))[f"{group}/{name}"])
    for group in store.groups:
        names = store.arrays("revisions")["revision"].tolist()
        seeds = [next(seed for seed, each in enumerate(REVISIONS) if each.name == name) for name in names]
        column = {"logits": "entropy", "loss": "cross_entropy"}[group]
        rows = [values(seed, (group,))[f"{group}/{column}"] for seed in seeds]
        lacking = np.isin(names, store.lacking(group))
        found = store.array(group, column)
        np.testing.assert_array_equal(found[~lacking], np.array(rows)[~lacking])
    return set(store.done)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("begun") / "s.zarr"
    add(new_store(path, ("loss",)), REVISIONS[0], 0)
    return path


@pytest.mark.parametrize("order", ["first first", "last first", "any"])
@pytest.mark.parametrize("files_each", [0.2, 0.6, 2])
def test_a_copy_has_fewer_rows_and_no_holes(begun: Path, tmp_path: Path, order: str, files_each: float) -> None:
    """The copier copies so many files each time that the writer renames one."""
    for seed in range(3):
        draw = random.Random(seed)
        path, copy = tmp_path / f"{seed}.zarr", tmp_path / f"copy{seed}.zarr"
        shutil.copytree(begun, path)
        copier = Copier(path, copy, order, draw)
        begins = draw.randrange(40)

        def come(count: int, copier: Copier = copier, begins: int = begins, draw: random.Random = draw) -> None:
            for _ in range(int(files_each + draw.random()) if count >= begins else 0):
                copier.copy_one()

        with before_each_file(come):
            write(path)
        while copier.copy_one():
            pass
        done = check(copy)
        assert REVISIONS[0].name in done or order != "first first"
        write(copy)
        assert check(copy) == {each.name for each in REVISIONS[:3]}
        assert open_store(copy).check().damages == ()
