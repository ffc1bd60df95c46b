"""A collection measures damaged rows of its store anew, and a plan says that it would."""

from __future__ import annotations

from pathlib import Path

import pytest

import olmo_dynamics as od
from olmo_dynamics.progress import Progress

DAMAGED = (
    "parameters/rms/0.0",
    "parameters/recorded/0",
    "revisions/status/0",
    "revisions/revision/0",
    "revisions/line/0",
    "parameters/step/0",
    "parameters/tensor/0",
    "parameters/role/0",
    "parameters/mean/c/0/0",
    "parameters/zarr.json",
)


class Notes(Progress):
    """Keeps what a collection says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def collected(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collected") / "s.zarr"
    od.collect(tiny_run, out=path, record="parameters", progress=Progress())
    return path


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_measured_anew(tiny_run: Path, collected: Path, name: str) -> None:
    before = od.open_store(collected).table("parameters")
    file = collected / name
    file.write_bytes(file.read_bytes()[:-3])
    place = str(od.open_store(collected).check().damages[0])
    planned = od.plan(tiny_run, out=collected, record="parameters").notes
    assert [note for note in planned if "is damaged in" in note] == [
        f"{collected} is damaged in {place}; a collection measures anew what is damaged"
    ]
    notes = Notes()
    od.collect(tiny_run, out=collected, record="parameters", progress=notes)
    assert [note for note in notes.lines if "was damaged in" in note] == [
        f"{collected} was damaged in {place}; what was damaged is measured anew"
    ]
    store = od.open_store(collected)
    assert store.check().damages == ()
    assert store.table("parameters").equals(before)
