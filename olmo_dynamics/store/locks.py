"""Locks of a store: one process writes it, or several that each take a part of its revisions.

The lock `run.zarr.lock` lies beside the store `run.zarr` while one process writes all of it, and `run.zarr.2-of-8.lock` while
one writes that part. Parts are measured in parallel; each holds `run.zarr.turn` for the milliseconds in which it writes, so
no two ever write at once, and every writer begins from the state that the others left.

    >>> with locked(Path("run.zarr"), "2/8"), exclusive_append(Path("run.zarr")):  # doctest: +SKIP
    ...     RowWriter(Path("run.zarr")).flush()
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from olmo_dynamics.errors import OptionError, StoreBusyError
from olmo_dynamics.files import beside, write_errors_named


@contextmanager
def locked(store: Path, part: str | None = None) -> Iterator[None]:
    """Hold a store, or a part of it such as `2/8`, as its only writer while the block runs.

    A lock whose process no longer runs on this machine is taken over; one from another machine is respected, since nothing
    here can tell whether its process still runs.

    Raises:
        OptionError: the part is not of the form K/N.
        StoreBusyError: another process is writing it.
    """
    lock = beside(store, _suffix(part))
    mine = f"{os.getpid()} {_started(os.getpid())} {socket.gethostname()}"
    with write_errors_named(store):
        _acquire(lock, mine, store)
    try:
        for rival in _rivals(
            store, part
        ):  # looked for only now: of two that begin at once, at least one sees the other
            holder = _holder(rival)
            if not _is_gone(holder):
                raise _busy(store, rival, holder)
            _remove_stale(rival, holder)
        yield
    finally:
        lock.unlink(missing_ok=True)


@contextmanager
def exclusive_append(store: Path) -> Iterator[None]:
    """Wait until no other part is writing, then exclude all others; a process that dies releases the lock."""
    import fcntl  # not on Windows, where a store is written by one process

    path = beside(store, ".turn")
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_same_file(descriptor, path):
                continue  # removed by the process that held it before
            try:
                yield
            finally:
                path.unlink()
            return
        finally:
            os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _suffix(part: str | None) -> str:
    if part is None:
        return ".lock"
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part)
    if not found or int(found[1]) > int(found[2]):
        raise OptionError(f"a part of a store must be K/N such as 2/8, with K from 1 to N (got {part})")
    return f".{found[1]}-of-{found[2]}.lock"


def _rivals(store: Path, part: str | None) -> list[Path]:
    """The locks that exclude this one: of all parts, or of the whole."""
    if part is not None:
        return [lock] if (lock := beside(store, ".lock")).exists() else []
    names = re.compile(re.escape(store.name) + r"\.\d+-of-\d+\.lock")
    return [each for each in store.absolute().parent.iterdir() if names.fullmatch(each.name)]


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
    """Remove a dead process's lock, and only that: it is moved aside first, so two processes that find it cannot both win."""
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
    """The start of a process, in the kernel's ticks since boot; empty where the system does not tell."""
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
