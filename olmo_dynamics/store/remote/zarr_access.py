"""Places as zarr opens them: a folder by its path, a .zip file, a bucket by obstore, a repo by fsspec.

>>> zarr.open_group(zarr_store(as_place("s3://bucket/run.zarr")), mode="r")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from olmo_dynamics.files import Place
from olmo_dynamics.files.archives import ZipArchive
from olmo_dynamics.files.buckets import Bucket
from olmo_dynamics.files.repositories import Repository


def zarr_store(place: Place) -> Any:
    """The store that zarr reads a place through."""
    from zarr.storage import FsspecStore, ObjectStore, StorePath, ZipStore

    if isinstance(place, Path):
        return place
    objects = place.tree.objects
    store: Any
    if isinstance(objects, ZipArchive):
        store = ZipStore(Path(objects.address), mode="r")
    elif isinstance(objects, Bucket):
        store = ObjectStore(objects.client, read_only=True)
    else:
        assert isinstance(objects, Repository)
        store = FsspecStore(_asynchronous(objects.filesystem), read_only=True, path=objects.root)
    return StorePath(store, place.key)


def _asynchronous(filesystem: Any) -> Any:
    if filesystem.async_impl:
        return filesystem
    wrapper: Any = import_module("fsspec.implementations.asyn_wrapper")
    return wrapper.AsyncFileSystemWrapper(filesystem, asynchronous=True)
