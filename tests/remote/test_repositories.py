"""A store in a repo of the hub is read by its address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from olmo_dynamics.errors import StoreError
from olmo_dynamics.files import as_place
from olmo_dynamics.files.repositories import Repository
from olmo_dynamics.frames import open_store
from olmo_dynamics.store.remote import zarr_access
from tests.conftest import ROOT
from tests.hub import LocalHub
from tests.remote.reading import contents
from tests.store.synthetic import REVISIONS, add, filled_store

READER = """
import sys, olmo_dynamics as od
store = od.open_store(sys.argv[1])
print(sorted(store.done) == sorted(od.open_store(sys.argv[2]).done))
print(store.table("loss").equals(od.open_store(sys.argv[2]).table("loss")))
print(store.array("loss", "cross_entropy", at={"domain": "code"}).tolist())
print(od.copy_store(sys.argv[1], sys.argv[3]).verified)
"""


@pytest.mark.slow
def test_a_store_in_a_repo_is_read_through_the_hub(tmp_path: Path) -> None:
    local = tmp_path / "s.zarr"
    filled_store(local, ("loss",)).compact()
    files = {f"stores/s.zarr/{name}": data for name, data in contents(local).items()}
    with LocalHub() as hub:
        hub.add_repo("org/name", {"main": files})
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        arguments = ["hf://org/name/stores/s.zarr", str(local), str(tmp_path / "back.zarr")]
        done = subprocess.run(
            [sys.executable, "-c", READER, *arguments],
            cwd=ROOT, env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
    expected = open_store(local).array("loss", "cross_entropy", at={"domain": "code"}).tolist()
    assert done.stdout.splitlines() == ["True", "True", str(expected), str(len(files))]
    assert contents(tmp_path / "back.zarr") == contents(local)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a store in what looks like a repo: fsspec's file system in memory."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    filled_store(tmp_path / "s.zarr", ("loss",)).compact()
    for name, data in contents(tmp_path / "s.zarr").items():
        memory.pipe_file(f"/datasets/org/name/s.zarr/{name}", data)
    monkeypatch.setattr("olmo_dynamics.files.repositories.import_module", lambda name: _Memory(memory))
    return "hf://datasets/org/name/s.zarr"


class _Memory:
    def __init__(self, memory: object) -> None:
        self._memory = memory

    def filesystem(self, scheme: str) -> object:
        assert scheme == "hf"
        return self._memory


def test_a_repo_is_read_only(repository: str, tmp_path: Path) -> None:
    place = as_place(repository)
    assert isinstance(place.tree.objects, Repository)
    place.tree.objects.root = "/datasets/org/name"  # as that file system spells paths
    store, here = open_store(place), open_store(tmp_path / "s.zarr")
    assert store.table("loss").equals(here.table("loss")) and contents_of(place) == contents(tmp_path / "s.zarr")
    assert zarr_access.zarr_store(place) is not None
    with pytest.raises(
        StoreError, match=r"^hf://datasets/org/name can only be read; copy the store into a folder or a bucket"
    ):
        add(open_store(place, mode="a"), REVISIONS[2], 2)


def contents_of(place: object) -> dict[str, bytes]:
    return {str(each).removeprefix(f"{place}/"): each.read_bytes() for each in place.rglob("*")}
