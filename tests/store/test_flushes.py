"""Every file is flushed before the rename that shows it, and its folder after; a revision's marks come last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.store.synthetic import ATTRIBUTES, PROBE, REVISIONS, add, layout, new_store


class Recorder:
    """The calls that put files on the disk, in order, by path."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        fsync, replace, rename = os.fsync, os.replace, Path.rename

        def flushed(descriptor: int) -> None:
            self.calls.append(("flush", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
            fsync(descriptor)

        def replaced(source: Any, target: Any) -> None:
            self.calls.append(("rename", f"{source} -> {target}"))
            replace(source, target)

        def renamed(source: Path, target: Path) -> Path:
            self.calls.append(("rename", f"{source} -> {target}"))
            return rename(source, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", flushed)
            patch.setattr(os, "replace", replaced)
            patch.setattr(Path, "rename", renamed)
            yield

    @property
    def renames(self) -> list[tuple[int, Path, Path]]:
        found = [(number, text.split(" -> ")) for number, (kind, text) in enumerate(self.calls) if kind == "rename"]
        return [(number, Path(source), Path(target)) for number, (source, target) in found]

    def check(self, files: dict[Path, int]) -> None:
        """Flushed before: the file, or all files of a folder. Flushed after: the folder that it lies in."""
        for number, source, target in self.renames:
            before = {Path(text) for kind, text in self.calls[:number] if kind == "flush"}
            after = {Path(text) for kind, text in self.calls[number:] if kind == "flush"}
            inside = {each for each in before if source in each.parents}
            assert source in before or len(inside) >= files[target], (source, target)
            assert target.parent in after, target


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell which file is flushed")
def test_every_file_is_flushed_before_its_rename_and_its_folder_after(tmp_path: Path) -> None:
    heard = Recorder()
    path = tmp_path / "s.zarr"
    with heard.listening():
        store = new_store(path, ("loss",))
        made = sum(each.is_file() for each in path.rglob("*"))
        store.plan(REVISIONS[:2])
        add(store, REVISIONS[0], 0)
        store.compact()
        store.add_groups(layout(("loss", "logits")), attributes=ATTRIBUTES, probe_arrays=PROBE)
        joined = sum(each.is_file() for each in (path / "logits").rglob("*"))
        add(store, REVISIONS[0], 0)
    assert len(heard.renames) > 150
    heard.check({path: made, path / "logits": joined})


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not tell which file is flushed")
def test_the_marks_of_a_revision_are_renamed_last(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss", "logits"))
    store.plan(REVISIONS[:1])
    heard = Recorder()
    with heard.listening():
        add(store, REVISIONS[0], 0)
    arrays = ["/".join(target.parts[-3:-1]) for _, _, target in heard.renames]
    assert arrays[-3:] == ["loss/recorded", "logits/recorded", "revisions/status"]
    last_row = heard.renames[-4][0]
    first_mark = heard.renames[-3][0]
    rows = {target.parent for _, _, target in heard.renames[:-3]}
    flushed = {Path(text) for kind, text in heard.calls[last_row:first_mark] if kind == "flush"}
    assert rows <= flushed
