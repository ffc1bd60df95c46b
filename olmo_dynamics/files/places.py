"""Places: folders of this machine, and objects in buckets, .zip files and repos, under the same few operations.

Whatever reads and writes a store takes a `Place`. Reading is that of `pathlib.Path`, which `ObjectPath` has too; the
functions here do the rest, for either.

    >>> as_place("run.zarr").name, as_place("run.zarr").is_dir()
    ('run.zarr', False)
    >>> write_together([(as_place("s3://bucket/run.zarr") / "zarr.json", b"{}")], partial=partial)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from olmo_dynamics.errors import OptionError
from olmo_dynamics.files import local_files
from olmo_dynamics.files.addresses import BUCKETS, Address, is_address, parse_address
from olmo_dynamics.files.archives import SUFFIX, ZipArchive
from olmo_dynamics.files.object_tree import REQUESTS, ObjectPath, ObjectTree
from olmo_dynamics.files.objects import Objects

Place = Path | ObjectPath
"""The place of a file or folder."""

PlaceFile = tuple[Place, bytes | Iterable[bytes]]
"""A file's place and its bytes, whole or piece by piece."""

Stamp = tuple[int, int] | str
"""A stamp that tells a file from another of the same name."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def as_place(path: str | Place) -> Place:
    """The place that a path or an address names; a .zip file is the store in it.

    Raises:
        OptionError: an address cannot be used, or its library is not installed.
        AccessError: there are no credentials for it.
    """
    if isinstance(path, ObjectPath):
        return path
    if isinstance(path, str) and is_address(path):
        address = parse_address(path)
        if not address.prefix:
            raise OptionError(f"an address must name a folder in the bucket or repo, as {address.root}/run.zarr does")
        return ObjectPath(ObjectTree(_objects(address), address.prefix), address.prefix)
    local = Path(path)
    if local.suffix == SUFFIX and local.is_file():
        archive = ZipArchive(local)
        tree = ObjectTree(archive, "")
        return ObjectPath(tree, "" if "zarr.json" in tree.entries else archive.top)
    return local


def _objects(address: Address) -> Objects:
    if address.scheme in BUCKETS:
        from olmo_dynamics.files.buckets import bucket_of

        return bucket_of(address)
    from olmo_dynamics.files.repositories import Repository

    return Repository(address)


def is_there(place: Place) -> bool:
    """True if there is a folder, or objects with the `zarr.json` of a store, which is written last."""
    return place.exists() if isinstance(place, Path) else (place / "zarr.json").is_file()


def refresh(place: Place) -> None:
    """See what others wrote since: objects are listed again, and a folder is always seen as it is."""
    if isinstance(place, ObjectPath):
        place.tree.refresh()


def forget(place: Place) -> None:
    """Read anew all that was read of objects before, as a check does."""
    if isinstance(place, ObjectPath):
        place.tree.forget()


def beside(store: Place, suffix: str) -> Place:
    """The place next to a store, its name and a suffix."""
    return store.with_name(store.name + suffix)


def stamp_of(place: Place) -> Stamp | None:
    """A stamp that tells a file from another of the same name; None where there is no file."""
    return place.tag if isinstance(place, ObjectPath) else local_files.stamp_of(place)


def read_start(place: Place, size: int) -> bytes:
    """The first bytes of a file; fewer where it ends before."""
    if isinstance(place, ObjectPath):
        return place.tree.read_span(place.key, 0, size)
    return local_files.read_start(place, size)


def read_end(place: Place, size: int) -> bytes:
    """The last bytes of a file; all of one that is shorter."""
    if isinstance(place, ObjectPath):
        return place.tree.read_span(place.key, max(0, place.size - size), place.size)
    with place.open("rb", buffering=0) as file:
        file.seek(max(0, place.stat().st_size - size))
        return file.read()


def files_under(place: Place) -> dict[str, int]:
    """The files under a place by their names from there, and the size of each in bytes."""
    if isinstance(place, ObjectPath):
        begin = len(place.key) + 1 if place.key else 0
        return {key[begin:]: place.tree.entries[key].size for key in place.tree.under(place.key)}
    found = (each for each in place.rglob("*") if each.is_file())
    return {each.relative_to(place).as_posix(): each.stat().st_size for each in found}


def fetch(places: Iterable[Place]) -> None:
    """Read small objects ahead, many at once; nothing for files of this machine."""
    found = [each for each in places if isinstance(each, ObjectPath)]
    if found:
        found[0].tree.fetch(each.key for each in found)


def fetch_all(place: Place) -> None:
    """Read all small objects under a place ahead; nothing for files of this machine."""
    if isinstance(place, ObjectPath):
        place.tree.fetch(place.tree.under(place.key))


def mapped(
    place: Place, function: Callable[[_Item], _Result], items: Iterable[_Item], *, ahead: int = 2 * REQUESTS
) -> Iterator[_Result]:
    """`map`, with several calls at once where each of them waits for a network; at most `ahead` results wait to be taken."""
    if not isinstance(place, ObjectPath) or place.tree.objects.is_prompt:
        yield from map(function, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(REQUESTS) as pool:
        while some := list(islice(rest, ahead)):
            yield from pool.map(function, some) if len(some) > 1 else map(function, some)


def write_atomic(place: Place, data: bytes, *, partial: Place) -> None:
    """Write a file that is wholly there or not; on this machine under the name `partial` first."""
    if isinstance(place, ObjectPath):
        place.tree.write_all([(place.key, data)])
    else:
        local_files.write_atomic(place, data, partial=_local(partial))


def write_together(files: Iterable[PlaceFile], *, partial: Place) -> None:
    """Write files that belong together, the last of them when all others are there.

    On this machine they are written in a folder `partial`, and get their names in order.
    """
    if isinstance(partial, ObjectPath):
        keys = ((_key(place), data if isinstance(data, bytes) else b"".join(data)) for place, data in files)
        partial.tree.write_all(keys)
    else:
        local_files.write_together(((_local(place), data) for place, data in files), partial=partial)


def remove_tree(place: Place) -> None:
    """Remove all that is under a place, and the place."""
    if isinstance(place, ObjectPath):
        place.tree.remove(place.tree.under(place.key))
    else:
        local_files.remove_tree(place)


def _local(place: Place) -> Path:
    assert isinstance(place, Path)
    return place


def _key(place: Place) -> str:
    assert isinstance(place, ObjectPath)
    return place.key
