"""A store, or a folder of runs, copied file by file in an order that keeps readers right at every moment.

Rows come before the marks that tell of them, and each `zarr.json` comes after what it describes. So a copy that was stopped is
not there yet, or is the older state of the store, and the same call continues it.

    >>> copy_store("run.zarr", "s3://bucket/stores/run.zarr").verified  # doctest: +SKIP
    412
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Protocol

from olmo_dynamics.errors import StoreDamagedError, StoreError, StoreMismatchError, counted
from olmo_dynamics.files import (
    Place,
    as_place,
    beside,
    files_under,
    is_address,
    is_there,
    mapped,
    sync_folder,
    write_errors_named,
    write_together,
)
from olmo_dynamics.files.archives import SUFFIX, write_archive
from olmo_dynamics.store.checking import check
from olmo_dynamics.store.layout import RECORDED
from olmo_dynamics.store.locks import locked
from olmo_dynamics.store.metadata import difference
from olmo_dynamics.store.remote.new_places import claim_objects, joining_folder, release_objects
from olmo_dynamics.store.schema import REVISIONS, STATUS
from olmo_dynamics.store.several.run_folder import RunFolder, require_stores
from olmo_dynamics.store.store import Store
from olmo_dynamics.store.zarr_format import DOCUMENT

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class CopyListener(Protocol):
    """The part of a progress bar that a copy tells of its bytes."""

    def expect(self, *, revisions: int, nbytes: int) -> None:
        """Expect so many bytes in all."""

    def begin(self, name: str) -> None:
        """Begin a group of the store."""

    def advance(self, nbytes: int) -> None:
        """Count another `nbytes` as copied, or found to be there."""


@dataclass
class Copied:
    """The outcome of a copy: files and bytes written, files that were there already, and files whose checksums were compared."""

    destination: str
    files: int = 0
    nbytes: int = 0
    already_there: int = 0
    verified: int = 0
    _listener: CopyListener | None = field(default=None, repr=False)
    _group: str = field(default="", repr=False)

    def count(self, name: str, nbytes: int, *, is_new: bool) -> None:
        """Count a file."""
        self.files += is_new
        self.already_there += not is_new
        self.nbytes += nbytes if is_new else 0
        if self._listener is not None:
            group = name.partition("/")[0]
            if group != self._group:
                self._group = group
                self._listener.begin(group)
            self._listener.advance(nbytes)


def copy_store(store: Store | str | Place, destination: str | Path, *, progress: CopyListener | None = None) -> Copied:
    """Copy a store, or a folder of runs, to a bucket, a folder or a new .zip file, and compare every checksum of the copy.

    A copy that was stopped is continued, and one of an older state of the same store is brought up to date. While a store is
    written it may be copied: rows that were not finished are missing in the copy.

    Args:
        store: a store, or the path or address of one: a folder, a .zip file, a bucket (`s3://`, `gs://`, `az://`), or a repo
            (`hf://`).
        destination: a folder, a .zip file that is not there yet, or an address in a bucket.
        progress: is told how many bytes are copied; nobody unless given.

    Raises:
        StoreError: there is no store, or the destination holds something else, or revisions that the store lacks.
        StoreMismatchError: the destination holds another store.
        StoreDamagedError: a checksum of the copy does not match.
        StoreBusyError: another process is writing the destination.
        AccessError: there are no credentials for a bucket.
        DiskFullError: no room; the same call continues.
    """
    source = store.path if isinstance(store, Store) else as_place(store)
    _stores_in(source)
    sizes = files_under(source)
    copied = Copied(str(destination), _listener=progress)
    if progress is not None:
        progress.expect(revisions=0, nbytes=sum(sizes.values()))
    with write_errors_named(destination):
        if str(destination).endswith(SUFFIX) and not is_address(destination):
            _to_archive(source, Path(destination), sizes, copied)
        else:
            _to_place(source, as_place(destination), sizes, copied)
    copied.verified = _verified(str(destination))
    return copied


def _to_archive(source: Place, target: Path, sizes: Mapping[str, int], copied: Copied) -> None:
    if is_there(target):
        raise StoreError(f"{target} exists already, and a .zip file is not changed; choose another name, or delete it")
    partial = target.with_name(target.name + ".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_archive(partial, _counted(_contents(source, _ordered(sizes)), copied))
        partial.replace(target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _counted(files: Iterator[tuple[str, bytes]], copied: Copied) -> Iterator[tuple[str, bytes]]:
    for name, data in files:
        yield name, data
        copied.count(name, len(data), is_new=True)


def _to_place(source: Place, target: Place, sizes: Mapping[str, int], copied: Copied) -> None:
    if source == target:
        raise StoreError(f"a store must be copied to another place (got {source} twice)")
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target), _begun(source, target) as building:
        there = files_under(building)
        for _, names in groupby(_ordered(sizes), key=_rank):
            new = (
                (building / name, data)
                for name, data in _contents(source, list(names))
                if _is_new(building / name, name, data, there, copied)
            )
            write_together(new, partial=beside(target, ".partial"))


@contextmanager
def _begun(source: Place, target: Place) -> Iterator[Place]:
    """Yield the place to copy to: that of an older copy, or a new one, which is there when the block ends without an error."""
    if is_there(target):
        _require_older(source, target)
        yield target
    elif isinstance(target, Path):
        building = joining_folder(target)
        assert isinstance(building, Path)
        building.mkdir(exist_ok=True)
        yield building
        building.rename(target)
        sync_folder(target.parent)
    else:
        claim_objects(target, keep=True)
        yield target
        release_objects(target)


def _require_older(source: Place, target: Place) -> None:
    """Check that the copy at the target is of the same store, and holds nothing that the store lacks."""
    given, held = _stores_in(source), _stores_in(target)
    for name, place in held.items():
        if name not in given:
            raise StoreError(f"{target} holds a run that {source} lacks ({name}); choose another destination")
        old, new = Store.open(place), Store.open(given[name])
        found = difference(old.attributes, new.attributes)
        if not found and old.is_checked != new.is_checked:
            found = "their layout versions differ"
        if found:
            raise StoreMismatchError(f"{target} holds another store: {found}; choose another destination")
        lost = sorted(old.done - new.done)
        if lost:
            raise StoreError(
                f"{target} holds {counted(len(lost), 'revision')} that {source} lacks, such as {lost[0]}; choose another "
                "destination"
            )


def _stores_in(place: Place) -> dict[str, Place]:
    """The stores at a place: those of a folder of runs by their sources, or the one store.

    Raises:
        StoreError: there is none.
    """
    folder = RunFolder(place)
    return require_stores(folder) if folder.exists else {"": Store.open(place).path}


def _contents(source: Place, names: list[str]) -> Iterator[tuple[str, bytes]]:
    return zip(names, mapped(source, lambda name: (source / name).read_bytes(), names), strict=True)


def _is_new(place: Place, name: str, data: bytes, there: Mapping[str, int], copied: Copied) -> bool:
    """True if a file is not there with the same bytes; it is counted."""
    is_new = there.get(name) != len(data) or not _holds(place, data)
    copied.count(name, len(data), is_new=is_new)
    return is_new


def _holds(place: Place, data: bytes) -> bool:
    """True if a file has these bytes; a bucket tells the MD5 of an object where it did not encrypt it."""
    tag = None if isinstance(place, Path) else _MD5.fullmatch(place.tag or "")
    if tag:
        return tag[1] == hashlib.md5(data, usedforsecurity=False).hexdigest()
    return place.read_bytes() == data


def _ordered(names: Mapping[str, int]) -> list[str]:
    return sorted(names, key=lambda name: (_rank(name), name))


def _rank(name: str) -> int:
    """The order of writing: rows and labels, marks, then documents, the deepest first."""
    parts = name.split("/")
    if parts[-1] == DOCUMENT:
        return 100 - len(parts)
    is_mark = (len(parts) > 1 and parts[-2].startswith(RECORDED)) or parts[-3:-1] == [REVISIONS, STATUS.name]
    return 1 if is_mark else 0


def _verified(destination: str) -> int:
    """The number of files of a copy whose checksums match.

    Raises:
        StoreDamagedError: some do not.
    """
    verified = 0
    for place in _stores_in(as_place(destination)).values():
        found = check(place)
        if found.damages:
            raise StoreDamagedError(
                f"{place} is damaged in {counted(len(found.damages), 'place')}, first {found.damages[0]}; look at the store "
                "itself with olmo-dyn show --check, and copy it again"
            )
        verified += found.verified
    return verified
