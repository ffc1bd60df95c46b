"""Folders that come into being whole: built beside their place and renamed, or, as objects, named by a document written last.

>>> with whole_folder(as_place("run.zarr")) as building:  # doctest: +SKIP
...     write_together(files, partial=building / ".partial")
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from olmo_dynamics.errors import StoreError
from olmo_dynamics.files import Place, beside, remove_tree, sync_folder

_BUILDING = ".building"


@contextmanager
def whole_folder(place: Place) -> Iterator[Place]:
    """Yield the place to build a new folder in; it is there when the block ends without an error.

    Objects are built where they are to be, and an object beside them says so until the last of them is written; what a process
    that was killed left there is removed first.

    Raises:
        StoreError: there are other objects at the place.
    """
    building = beside(place, _BUILDING)
    if isinstance(place, Path) and isinstance(building, Path):
        remove_tree(building)  # of a process that was killed
        try:
            yield building
            building.rename(place)
            sync_folder(place.parent)
        finally:
            remove_tree(building)
        return
    claim_objects(place)
    try:
        yield place
    except BaseException:
        remove_tree(place)
        raise
    finally:
        release_objects(place)


def claim_objects(place: Place, *, keep: bool = False) -> None:
    """Say beside a place that objects are being written there; those of a process that was killed are removed, or kept.

    Raises:
        StoreError: there are other objects at the place.
    """
    assert not isinstance(place, Path)
    mark = beside(place, _BUILDING)
    assert not isinstance(mark, Path)
    is_ours = place.tree.objects.find(mark.key) is not None
    if place.is_dir() and not is_ours:
        raise StoreError(f"{place} holds objects that are no store; choose another address, or delete them")
    if place.is_dir() and not keep:
        remove_tree(place)
    if not is_ours:
        place.tree.objects.write(mark.key, b"a store is being written here\n")


def release_objects(place: Place) -> None:
    """Take away the mark that objects are being written at a place."""
    mark = beside(place, _BUILDING)
    assert not isinstance(mark, Path)
    mark.tree.objects.delete([mark.key])


def joining_folder(store: Place) -> Place:
    """The place to build groups and arrays in that are to join a store: beside it, or, of objects, in it."""
    return beside(store, _BUILDING) if isinstance(store, Path) else store


def clear_folder(store: Place) -> None:
    """Remove what a process that was killed left where folders are built that are to join a store."""
    if isinstance(store, Path):
        remove_tree(joining_folder(store))


def join_folder(building: Place, store: Place, path: str) -> None:
    """Let a folder that was built join a store, by one rename; objects join it when its document names them."""
    if isinstance(building, Path) and isinstance(store, Path):
        remove_tree(store / path)  # of a process that was killed
        os.replace(building / path, store / path)  # noqa: PTH105
        sync_folder((store / path).parent)


def remove_leftover(folder: Place) -> None:
    """Remove the objects of a folder that was begun by a process that was killed; a folder that is built anew has none."""
    if not isinstance(folder, Path) and folder.is_dir():
        remove_tree(folder)
