"""Files that are wholly there or not there.

While somebody writes a store `run.zarr`, the file being written lies beside it as `run.zarr.partial` until its rename. It
is beside the store and not inside it, so a killed writer leaves no stray file there.

    >>> write_atomic(Path("run.zarr/zarr.json"), b"{}", partial=Path("run.zarr.partial"))  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from olmo_dynamics.errors import DiskFullError, StoreError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def beside(store: Path, suffix: str) -> Path:
    """The path next to a store's folder, its name and a suffix."""
    return store.with_name(store.name + suffix)


def stamp_of(path: Path) -> tuple[int, int] | None:
    """A stamp that tells a file from another of the same name; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def write_atomic(path: Path, data: bytes, *, partial: Path) -> None:
    """Write a file under the name `partial`, then give it its own name; a reader sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_writer(path: Path, *, partial: Path) -> Iterator[BinaryIO]:
    """Write a file piece by piece under the name `partial`; it is given its own name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except Exception:
        partial.unlink(missing_ok=True)
        raise


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Replace some bytes of a file by as many others; its size stays."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)
    finally:
        os.close(descriptor)


@contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Turn refusals of the operating system into errors that say what to do.

    Raises:
        DiskFullError: no space left on the disk, or in this user's quota.
        StoreError: writing there is not allowed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFullError(
                f"no room left on the disk of {path}; what was finished stays: make room and run the same command again"
            ) from error
        if error.errno in _NOT_ALLOWED:
            raise StoreError(
                f"{path} cannot be written ({error.strerror}); allow it, or choose another folder"
            ) from error
        raise
