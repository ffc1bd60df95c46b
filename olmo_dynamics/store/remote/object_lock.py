"""Locks that are objects: made by a conditional write, renewed while they are held, and taken over when they are not.

A server that keeps conditions (`If-None-Match`, `If-Match`) lets one of two writers through. Whether it does is found out by
writing an object twice. Where it does not, only a single writer at a time is allowed, and its lock is a note to others.

    >>> with held_object(as_place("s3://bucket/run.zarr.2-of-8.lock"), store) as lock:  # doctest: +SKIP
    ...     lock.require()
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from olmo_dynamics.errors import NetworkError, SourceError, StoreBusyError, StoreError
from olmo_dynamics.files import ObjectPath
from olmo_dynamics.files.objects import ChangedError, Entry, Objects
from olmo_dynamics.store.remote.holders import describe_process, is_gone_here, parts_of

RENEWAL = 30.0
"""Seconds between two renewals of a lock by its holder."""

LIFETIME = 120.0
"""Seconds without a renewal after which a lock may be taken over."""

_TRIES = 20
_PROBING = threading.Lock()
_POLL = 0.25  # seconds between two looks at a lock that is waited for
_SLACK = 1.0  # servers tell times in whole seconds


@dataclass(frozen=True)
class Server:
    """The facts about a server that a lock needs: whether it keeps conditions, and its clock ahead of ours, in seconds."""

    is_conditional: bool
    ahead: float


@lru_cache(maxsize=64)
def _probe(objects: Any, place: str) -> Server:
    """Find out whether a server keeps conditions, by writing an object twice, and in place of a version that is gone."""
    key = f"{place}.probe-{secrets.token_hex(8)}"
    first, second = (secrets.token_hex(16).encode() for _ in range(2))
    try:
        created = _created(objects, key, first)
        is_kept = not _succeeds(lambda: objects.create(key, second)) and objects.read(key) == first
        if is_kept:
            is_kept = _succeeds(lambda: objects.replace(key, second, created.tag)) or objects.read(key) == second
            is_kept = is_kept and not _succeeds(lambda: objects.replace(key, first, created.tag))
        found = objects.find(key)
        return Server(is_kept, found.modified - time.time() if found else 0.0)
    finally:
        objects.delete([key])


def _created(objects: Objects, key: str, data: bytes) -> Entry:
    try:
        return objects.create(key, data)
    except FileExistsError:  # our own write, whose answer was lost
        return objects.find(key) or objects.write(key, data)


def _succeeds(work: Callable[[], object]) -> bool:
    try:
        work()
    except (FileExistsError, ChangedError):
        return False
    return True


class ObjectLock:
    """The lock of one writer; `require` stops a writer whose lock was taken over."""

    def __init__(self, path: ObjectPath, store: ObjectPath, server: Server) -> None:
        self._objects, self._key, self._store, self._server = path.tree.objects, path.key, store, server
        self._mine = f"{describe_process()}\n{secrets.token_hex(16)}\n"
        self._tag, self._renewals, self._renewed_at = "", 0, 0.0
        self._is_lost = False
        self._turn = threading.Lock()

    def acquire(self, *, wait: bool = False) -> None:
        """Take the lock, at once or as soon as nobody else holds it.

        Raises:
            StoreBusyError: another process holds it, and `wait` is False.
        """
        tries = 0
        while not self._try():
            holder, entry = self._look()
            tries += not wait
            if entry is None and tries < _TRIES:
                continue  # given back meanwhile, or two writers met
            if entry is not None and self._is_stale(holder, entry):
                if self._take_over(entry):
                    return
            elif not wait:
                raise self._busy(holder)
            time.sleep(_POLL)

    def renew(self) -> None:
        """Write the lock anew, so that others see that its holder works.

        Raises:
            StoreBusyError: it was taken over.
        """
        with self._turn:
            self._renewals += 1
            try:
                self._tag = self._replace(self._tag)
            except ChangedError:
                holder, entry = self._look()
                if entry is None or not holder.startswith(self._mine):
                    self._is_lost = True
                    raise self._taken() from None
                self._tag = entry.tag  # our own write, whose answer was lost
            self._renewed_at = time.time()

    def require(self) -> None:
        """Check before a write that the lock is still this process's; it is renewed if that is due.

        Raises:
            StoreBusyError: it was taken over.
        """
        if self._is_lost:
            raise self._taken()
        if time.time() - self._renewed_at > 2 * RENEWAL:
            self.renew()

    def release(self) -> None:
        """Remove the lock, if it is still this process's."""
        with self._turn, suppress(NetworkError):
            holder, entry = self._look()
            if entry is not None and holder.startswith(self._mine):
                self._objects.delete([self._key])

    def require_free(self) -> None:
        """Check that nobody holds the lock; one of a process that is gone is removed.

        Raises:
            StoreBusyError: another process holds it.
        """
        holder, entry = self._look()
        if entry is None:
            return
        if not self._is_stale(holder, entry) or not self._take_over(entry):
            raise self._busy(holder)
        self._objects.delete([self._key])

    def keep_renewed(self, ended: threading.Event) -> None:
        """Renew the lock again and again, until `ended`."""
        while not ended.wait(RENEWAL):
            try:
                self.renew()
            except StoreBusyError:
                return
            except SourceError:  # a server that fails for a while; `require` looks again before the next write
                continue

    def _try(self) -> bool:
        """Create the lock; True if it is this process's now."""
        try:
            if self._server.is_conditional:
                self._tag = self._objects.create(self._key, self._text).tag
            elif self._objects.find(self._key) is not None:
                return False
            else:
                self._tag = self._objects.write(self._key, self._text).tag
        except FileExistsError:
            holder, entry = self._look()
            if entry is None or not holder.startswith(self._mine):
                return False
            self._tag = entry.tag  # our own write, whose answer was lost
        self._renewed_at = time.time()
        return True

    def _take_over(self, entry: Entry) -> bool:
        try:
            self._tag = self._replace(entry.tag)
        except ChangedError:
            holder, found = self._look()
            if found is None or not holder.startswith(self._mine):
                return False
            self._tag = found.tag
        self._renewed_at = time.time()
        return True

    def _replace(self, tag: str) -> str:
        if self._server.is_conditional:
            return self._objects.replace(self._key, self._text, tag).tag
        return self._objects.write(self._key, self._text).tag

    @property
    def _text(self) -> bytes:
        return f"{self._mine}{self._renewals}\n".encode()

    def _look(self) -> tuple[str, Entry | None]:
        """The holder's text, and the object as it is now; None where there is none."""
        entry = self._objects.find(self._key)
        try:
            return self._objects.read(self._key).decode("utf-8", "replace"), entry
        except FileNotFoundError:
            return "", None

    def _is_stale(self, holder: str, entry: Entry) -> bool:
        if is_gone_here(holder.partition("\n")[0]):
            return True
        return time.time() + self._server.ahead - entry.modified > LIFETIME + _SLACK

    def _busy(self, holder: str) -> StoreBusyError:
        pid, _, host = parts_of(holder.partition("\n")[0])
        who = f"process {pid} on {host}" if host else "another process"
        return StoreBusyError(
            f"{self._store} is being written by {who}; wait for it, or, if it is gone, for the {LIFETIME:.0f} s after which its "
            "lock is taken over"
        )

    def _taken(self) -> StoreBusyError:
        return StoreBusyError(
            f"{self._store} was taken over by another process, since this one did not renew its lock for {LIFETIME:.0f} s; "
            "what was finished is kept: run the same command again"
        )


@contextmanager
def held_object(path: ObjectPath, store: ObjectPath, *, wait: bool = False) -> Iterator[ObjectLock]:
    """Hold the lock `path` of a store while the block runs, and let no write of the store pass without it.

    Raises:
        StoreBusyError: another process holds it, and `wait` is False.
    """
    lock = ObjectLock(path, store, server_of(store))
    lock.acquire(wait=wait)
    ended = threading.Event()
    thread = threading.Thread(target=lock.keep_renewed, args=(ended,), name="lock", daemon=True)
    thread.start()
    store.tree.guards.append(lock.require)
    try:
        yield lock
    finally:
        store.tree.guards.remove(lock.require)
        ended.set()
        thread.join()
        lock.release()


def server_of(store: ObjectPath) -> Server:
    """The server of a store, as it was found when it was first written to."""
    objects: Any = store.tree.objects
    with _PROBING:
        return _probe(objects, store.key)


@contextmanager
def held_parts(store: ObjectPath, suffix: str, *, is_part: bool) -> Iterator[None]:
    """Hold a store, or one of its parts; all parts exclude the whole, which is looked for once the own lock is there.

    Raises:
        StoreError: it is a part, and the server does not keep conditions.
        StoreBusyError: another process is writing the store.
    """
    if is_part and not server_of(store).is_conditional:
        raise StoreError(
            f"--shard needs a server that refuses to create an object twice (If-None-Match), and that of {store} does not; "
            "leave out --shard, or collect into a folder and copy it"
        )
    with held_object(_beside(store, suffix), store):
        for rival in [_beside(store, ".lock")] if is_part else _parts(store):
            ObjectLock(rival, store, server_of(store)).require_free()
        yield


@contextmanager
def held_turn(store: ObjectPath) -> Iterator[None]:
    """Wait until no other part of a store is writing, then exclude all others."""
    with held_object(_beside(store, ".turn"), store, wait=True):
        yield


def _parts(store: ObjectPath) -> list[ObjectPath]:
    """The locks of all parts, as the server lists them now."""
    pattern = re.compile(re.escape(store.key) + r"\.\d+-of-\d+\.lock")
    above = store.key.rpartition("/")[0]
    listed = store.tree.objects.list_level(f"{above}/" if above else "")
    return [ObjectPath(store.tree, key) for key in listed if pattern.fullmatch(key)]


def _beside(store: ObjectPath, suffix: str) -> ObjectPath:
    return ObjectPath(store.tree, f"{store.key}{suffix}")
