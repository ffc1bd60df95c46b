"""Locks of a store: one process writes it, or several that each take a part of its revisions.

The lock `run.zarr.lock` lies beside the store `run.zarr` while one process writes all of it, and `run.zarr.2-of-8.lock` while
one writes that part. Parts are measured in parallel; each holds `run.zarr.turn` for the milliseconds in which it writes, so
no two ever write at once, and every writer begins from the state that the others left.

A holder keeps its lock file locked for the kernel as well, and touches it every few seconds. So another node can tell a
holder that is gone from one that works, and can tell whether the file system shares locks between nodes at all.

    >>> with locked(Path("run.zarr"), "2/8"), exclusive_append(Path("run.zarr")):  # doctest: +SKIP
    ...     RowWriter(Path("run.zarr")).flush()
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from olmo_dynamics.errors import OptionError, StoreBusyError
from olmo_dynamics.files import Place, write_errors_named
from olmo_dynamics.files.local_files import beside
from olmo_dynamics.store.remote.holders import describe_process, is_gone_here, parts_of
from olmo_dynamics.store.remote.object_lock import held_parts, held_turn

BEAT = 5.0
"""Seconds between two touches of a lock by its holder."""

_BEATS_TO_WATCH = 4
_BEATING = " beating"
"""The end of a lock's text that says that its holder touches it."""


@contextmanager
def locked(store: Place, part: str | None = None) -> Iterator[None]:
    """Hold a store, or a part of it such as `2/8`, as its only writer while the block runs.

    A lock whose process is gone is taken over: one of this machine at once, one of another machine after it was watched for
    some seconds in which nobody touched it.

    Raises:
        OptionError: the part is not of the form K/N.
        StoreError: the store is in a bucket of which two processes cannot write parts.
        StoreBusyError: another process is writing it, or the file system does not share locks between the nodes that do.
    """
    if not isinstance(store, Path):
        with held_parts(store, _suffix(part), is_part=part is not None):
            yield
        return
    lock = beside(store, _suffix(part))
    mine = f"{describe_process()}{_BEATING}"
    with write_errors_named(store):
        descriptor = _acquire(lock, mine, store)
    try:
        with _beating(descriptor):
            for rival in _rivals(
                store, part
            ):  # looked for only now: of two that begin at once, at least one sees the other
                holder = _holder(rival)
                if not _is_gone(rival, holder):
                    raise _busy(store, rival, holder)
                _remove_stale(rival, holder)
            if part is not None:
                _require_shared_locks(store, lock)
            yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def exclusive_append(store: Place) -> Iterator[None]:
    """Wait until no other part is writing, then exclude all others; a process that dies releases the lock."""
    if not isinstance(store, Path):
        with held_turn(store):
            yield
        return
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


@contextmanager
def _beating(descriptor: int) -> Iterator[None]:
    """Touch a lock every few seconds while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):  # a file server that fails for a moment
                os.utime(descriptor)

    thread = threading.Thread(target=beat, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _rivals(store: Path, part: str | None) -> list[Path]:
    """The locks that exclude this one: of all parts, or of the whole."""
    if part is not None:
        return [lock] if (lock := beside(store, ".lock")).exists() else []
    return _parts_of(store)


def _parts_of(store: Path) -> list[Path]:
    names = re.compile(re.escape(store.name) + r"\.\d+-of-\d+\.lock")
    return [each for each in store.absolute().parent.iterdir() if names.fullmatch(each.name)]


def _acquire(lock: Path, mine: str, store: Path) -> int:
    """The descriptor of a lock that is now this process's."""
    try:
        return _create(lock, mine)
    except FileExistsError:
        holder = _holder(lock)
        if not _is_gone(lock, holder):
            raise _busy(store, lock, holder) from None
        _remove_stale(lock, holder)
    try:
        return _create(lock, mine)
    except FileExistsError:
        raise _busy(store, lock, _holder(lock)) from None


def _create(lock: Path, mine: str) -> int:
    descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    try:
        _lock(descriptor)
        os.write(descriptor, mine.encode())
    except OSError:
        os.close(descriptor)
        lock.unlink()
        raise
    return descriptor


def _lock(descriptor: int) -> None:
    if os.name != "nt":  # Windows has no such locks, and one process writes a store there
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_locked(lock: Path) -> bool:
    """True if a process holds the lock for the kernel, of this node or, if the file system shares locks, of any."""
    import fcntl

    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _require_shared_locks(store: Path, mine: Path) -> None:
    """Refuse to be one of several nodes that write a store on a file system that does not share locks between them.

    Raises:
        StoreBusyError: the holder of another part's lock touches it, and yet the lock is free.
    """
    others = [each for each in _parts_of(store) if each != mine and _is_of_another_node(_holder(each))]
    free = [each for each in others if not _is_locked(each)]
    beating = _touched(free)
    if beating:
        host = _parts(_holder(beating[0]))[2] or "another node"
        raise StoreBusyError(
            f"the file system of {store} must share locks between nodes, and {host} holds one that is free here; run all "
            "parts on one node, or put the store on a file system with shared locks"
        )


def _touched(locks: list[Path]) -> list[Path]:
    """The locks that are touched while they are watched."""
    before = {lock: _last_touch(lock) for lock in locks}
    for _ in range(_BEATS_TO_WATCH if before else 0):
        time.sleep(BEAT)
        now = {lock: _last_touch(lock) for lock in before}
        if found := [lock for lock in before if now[lock] not in (before[lock], None)]:
            return found
    return []


def _last_touch(lock: Path) -> int | None:
    """When a lock was touched last; it is opened, since file servers give old times to those who only ask."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


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


def _is_of_another_node(holder: str) -> bool:
    """True if the holder runs elsewhere and touches its lock, so that it can be watched from here."""
    return os.name != "nt" and holder.endswith(_BEATING) and _parts(holder)[2] != socket.gethostname()


def _is_gone(lock: Path, holder: str) -> bool:
    if _is_of_another_node(holder):
        return not _is_locked(lock) and not _touched([lock])
    return is_gone_here(holder.removesuffix(_BEATING))


def _parts(holder: str) -> tuple[str, str, str]:
    return parts_of(holder.removesuffix(_BEATING))


def _busy(store: Path, lock: Path, holder: str) -> StoreBusyError:
    pid, _, host = _parts(holder)
    who = f"process {pid} on {host}" if host else "another process"
    return StoreBusyError(f"{store} is being written by {who}; wait for it, or delete {lock} if it is gone")
