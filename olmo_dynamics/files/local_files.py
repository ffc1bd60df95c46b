"""Files that are wholly there or not there, after a power cut too.

While somebody writes a store `run.zarr`, the file being written lies beside it as `run.zarr.partial` until its rename. It
is beside the store and not inside it, so a killed writer leaves no stray file there.

    >>> write_atomic(Path("run.zarr/zarr.json"), b"{}", partial=Path("run.zarr.partial"))  # doctest: +SKIP

Files that belong together are flushed together: many flushes at once take hardly longer than one.

    >>> write_together([(Path("run.zarr/0"), b"1"), (Path("run.zarr/1"), b"2")], partial=partial)  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

from olmo_dynamics.errors import DiskFullError, StoreError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_FOLDER = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)

_FLUSHES = 8
"""The number of flushes at once: a disk takes them together."""

_OPEN_FILES = 64
"""The number of files that are written before they are flushed."""

File = tuple[Path, bytes | Iterable[bytes]]
"""A file's path and its bytes, whole or piece by piece."""


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
    """Write a file under the name `partial`, then give it its own name; a reader sees the old bytes or the new ones.

    The bytes are on the disk before the rename, and so is the rename before the return: this holds over a power cut too.
    """
    with atomic_writer(path, partial=partial) as file:
        file.write(data)


@contextmanager
def atomic_writer(path: Path, *, partial: Path) -> Iterator[BinaryIO]:
    """Write a file piece by piece as `write_atomic` does; it is given its own name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_together(files: Iterable[File], *, partial: Path) -> None:
    """Write files in a folder `partial`, then give them their own names one by one, in order.

    All of them are on the disk before the first rename, and the renames are before the return.
    """
    _remove(partial)  # of a writer that was killed
    partial.mkdir(parents=True)
    try:
        with ThreadPoolExecutor(_FLUSHES) as pool:
            temporaries = (f"{partial}/{number}" for number in count())
            rest, written = zip(files, temporaries, strict=False), []
            while some := _write_flushed(islice(rest, _OPEN_FILES), pool):
                written += some
            folders: dict[Path, None] = {}
            for path, temporary in written:
                folders |= dict.fromkeys(_rename(temporary, path))
            _share(pool, sync_folder, list(folders))
    finally:
        _remove(partial)


def _write_flushed(files: Iterable[tuple[File, str]], pool: ThreadPoolExecutor) -> list[tuple[Path, str]]:
    """Write some files to temporary paths and flush them together; returns each one's path and its temporary path."""
    descriptors: list[int] = []
    written: list[tuple[Path, str]] = []
    try:
        for (path, data), temporary in files:
            descriptors.append(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644))
            for piece in [data] if isinstance(data, bytes) else data:
                _write_all(descriptors[-1], piece)
            written.append((path, temporary))
        _share(pool, os.fsync, descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return written


def _share(pool: ThreadPoolExecutor, flush: Callable[[Any], None], parts: Sequence[Any]) -> None:
    """Flush files or folders, as many at once as the pool has threads."""

    def several(some: Sequence[Any]) -> None:
        for part in some:
            flush(part)

    list(pool.map(several, [parts[first::_FLUSHES] for first in range(min(_FLUSHES, len(parts)))]))


def _rename(temporary: str, path: Path) -> list[Path]:
    """Give a file its own name, making the folders that it needs; returns the folders whose contents changed."""
    made = []
    try:
        os.replace(temporary, path)  # noqa: PTH105 - one call per file of a revision
    except FileNotFoundError:
        made = _make(path.parent)
        os.replace(temporary, path)  # noqa: PTH105
    return [*made, path.parent]


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns the folders whose contents changed."""
    if folder.is_dir():
        return []
    above = _make(folder.parent)
    folder.mkdir(exist_ok=True)
    return [*above, folder.parent]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_files(paths: Iterable[Path]) -> None:
    """Put the bytes of files that were changed in place on the disk."""
    with ThreadPoolExecutor(_FLUSHES) as pool:
        _share(pool, sync_folder, list(paths))  # a file is flushed as a folder is


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, so that a rename in it outlasts a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of a file; fewer where it ends before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it; nothing if it is not there."""
    shutil.rmtree(folder, ignore_errors=True)


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
def write_errors_named(path: object) -> Iterator[None]:
    """Turn refusals of the operating system into errors that say what to do.

    Raises:
        DiskFullError: no space left on the disk, or in this user's quota.
        StoreError: writing there is not allowed, or a file lies where a folder of the path must be.
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
        if error.errno in _NO_FOLDER:
            raise StoreError(f"{path} cannot be written ({error.strerror}); choose another path") from error
        raise
