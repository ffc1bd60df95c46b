"""Files that are wholly there or not there, and one writer at a time.

Beside a store's folder `run.zarr` lie, only while somebody writes it, `run.zarr.lock` (who writes) and `run.zarr.partial`
(the file being written, before its rename). Both are beside and not inside it, so a killed writer leaves no stray file in
the store.

    >>> write_atomic(Path("run.zarr/zarr.json"), b"{}", partial=Path("run.zarr.partial"))  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from olmo_dynamics.errors import DiskFullError, StoreBusyError, StoreError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def beside(store: Path, suffix: str) -> Path:
    """The path next to a store's folder, its name and a suffix."""
    return store.with_name(store.name + suffix)


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
def write_errors_named(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error that says what to do.

    Raises:
        DiskFullError: no space left, or none left to this user.
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


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Be the only writer of a store while the block runs.

    A lock whose process is gone from this machine is taken over; one from another machine is respected, since nothing
    here can tell whether its process lives.

    Raises:
        StoreBusyError: somebody else is writing it.
    """
    lock = beside(store, ".lock")
    mine = f"{os.getpid()} {_started(os.getpid())} {socket.gethostname()}"
    with write_errors_named(store):
        _acquire(lock, mine, store)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _acquire(lock: Path, mine: str, store: Path) -> None:
    for last_try in (False, True):
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            holder = _holder(lock)
            if last_try or not _is_gone(holder):
                raise _busy(store, lock, holder) from None
            _remove_stale(lock, holder)
            continue
        try:
            os.write(descriptor, mine.encode())
        except OSError:
            lock.unlink()
            raise
        finally:
            os.close(descriptor)
        return


def _remove_stale(lock: Path, holder: str) -> None:
    """Remove a dead process's lock, and only that: it is moved aside first, so two that find it cannot both win."""
    aside = lock.with_name(f"{lock.name}.{os.getpid()}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return  # another process was faster
    if aside.read_text(encoding="utf-8") != holder:
        aside.rename(lock)  # it was a live one after all: taken over between our two looks
        return
    aside.unlink()


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _is_gone(holder: str) -> bool:
    pid, started, host = _parts(holder)
    if host != socket.gethostname() or not pid.isdigit() or os.name == "nt":  # asking would end the process on Windows
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it lives, as another user
    now = _started(int(pid))
    return bool(started and now) and now != started  # a number that was given again, as after a container's restart


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks since boot; empty where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _parts(holder: str) -> tuple[str, str, str]:
    pid, _, rest = holder.partition(" ")
    started, _, host = rest.partition(" ")
    return pid, started, host


def _busy(store: Path, lock: Path, holder: str) -> StoreBusyError:
    pid, _, host = _parts(holder)
    who = f"process {pid} on {host}" if host else "another process"
    return StoreBusyError(f"{store} is being written by {who}; wait for it, or delete {lock} if it is gone")
