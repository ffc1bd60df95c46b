"""Objects under one prefix, as they were listed, and paths to them that read as `pathlib.Path` does.

A tree is listed once, with one request per thousand objects; whether a file or folder is there is answered from that list. What
this process writes joins it. `refresh` lists it again.

    >>> root = ObjectPath(ObjectTree(bucket, "stores/run.zarr"), "stores/run.zarr")  # doctest: +SKIP
    >>> (root / "loss" / "zarr.json").is_file()  # doctest: +SKIP
    True
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fnmatch import fnmatchcase

from olmo_dynamics.files.objects import Entry, Objects

SMALL = 1 << 16  # 64 KiB
"""Objects up to this size are read whole, and kept."""

REQUESTS = 16
"""The number of requests at once."""

_KEPT_BYTES = 1 << 27  # 128 MiB


class ObjectTree:
    """The objects under a prefix; `guards` are called before every write, and stop it by raising an error."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self.objects = objects
        self.prefix = prefix
        self.guards: list[Callable[[], None]] = []
        self._listed: dict[str, Entry] | None = None
        self._children: dict[str, dict[str, None]] = {}
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._kept_bytes = 0
        self._lock = threading.RLock()

    @property
    def entries(self) -> dict[str, Entry]:
        """All objects by key, as they were listed, or written by this process since."""
        with self._lock:
            if self._listed is None:
                self._listed = self.objects.list(f"{self.prefix}/" if self.prefix else "")
                self._index()
            return self._listed

    def refresh(self) -> None:
        """List again when the list is next needed."""
        with self._lock:
            self._listed = None

    def forget(self) -> None:
        """List and read again whatever is next needed."""
        with self._lock:
            self._listed, self._kept, self._kept_bytes = None, {}, 0

    def is_folder(self, key: str) -> bool:
        """True if there are objects under a key."""
        return bool(self.entries) and key in self._children

    def children(self, key: str) -> list[str]:
        """The names of the objects and folders right under a key."""
        return sorted(self._children.get(key, ())) if self.entries else []

    def read(self, key: str) -> bytes:
        """A whole object; small ones are kept for as long as the list shows the same version.

        Raises:
            FileNotFoundError: the list does not have it, or it is gone.
        """
        entry = self._entry(key)
        kept = self._kept.get(key)
        if kept is not None and kept[0] == entry.tag:
            return kept[1]
        data, tag = self.objects.read_version(key)
        self._keep(key, tag or entry.tag, data)
        return data

    def read_span(self, key: str, start: int, stop: int) -> bytes:
        """The bytes of an object from `start` to `stop`; fewer where it ends before, all of a small one kept.

        Raises:
            FileNotFoundError: the list does not have it, or it is gone.
        """
        size = self._entry(key).size
        if size <= SMALL:
            return self.read(key)[start:stop]
        return self.objects.read(key, start, min(stop, size))

    def fetch(self, keys: Iterable[str]) -> None:
        """Read small objects ahead, many at once; those that are not there, or are large, are passed over."""
        entries = self.entries
        found = [key for key in dict.fromkeys(keys) if key in entries and entries[key].size <= SMALL]
        missing = [key for key in found if self._kept.get(key, ("",))[0] != entries[key].tag]
        if len(missing) > 1 and not self.objects.is_prompt:
            with ThreadPoolExecutor(REQUESTS) as pool:
                list(pool.map(self._try, missing))

    def write_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write objects, many at once, and the last of them when all others are there."""
        for guard in self.guards:
            guard()
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(REQUESTS) as pool:
            rest = iter(files)
            last = next(rest, None)
            for each in rest:
                assert last is not None
                waiting.append(pool.submit(self._write, *last))
                last = each
                if len(waiting) >= 2 * REQUESTS:
                    waiting.popleft().result()
            for done in waiting:
                done.result()
        if last is not None:
            self._write(*last)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects."""
        for guard in self.guards:
            guard()
        found = [key for key in keys if key in self.entries]
        if found:
            self.objects.delete(found)
            with self._lock:
                for key in found:
                    self.entries.pop(key, None)
                self._index()

    def under(self, key: str) -> list[str]:
        """The keys of all objects under a key, in order."""
        begin = f"{key}/" if key else ""
        return sorted(each for each in self.entries if each.startswith(begin))

    def _index(self) -> None:
        self._children = {}
        for key in self._listed or ():
            self._add(key)

    def _add(self, key: str) -> None:
        while key:
            folder, _, name = key.rpartition("/")
            names = self._children.setdefault(folder, {})
            if name in names:
                return
            names[name] = None
            key = folder

    def _entry(self, key: str) -> Entry:
        entry = self.entries.get(key)
        if entry is None:
            raise FileNotFoundError(f"{self.objects.address}/{key}")
        return entry

    def _try(self, key: str) -> None:
        try:
            self.read(key)
        except FileNotFoundError:
            return

    def _write(self, key: str, data: bytes) -> None:
        entry = self.objects.write(key, data)
        with self._lock:
            self.entries[key] = entry
            self._add(key)
        self._keep(key, entry.tag, data)

    def _keep(self, key: str, tag: str, data: bytes) -> None:
        if len(data) > SMALL or not tag:
            return
        with self._lock:
            self._kept_bytes += len(data) - len(self._kept.pop(key, ("", b""))[1])
            self._kept[key] = (tag, data)
            while self._kept_bytes > _KEPT_BYTES:
                oldest = next(iter(self._kept))
                self._kept_bytes -= len(self._kept.pop(oldest)[1])


class ObjectPath:
    """The place of an object, or of all objects under a key, in the terms of `pathlib.Path`."""

    __slots__ = ("key", "tree")

    def __init__(self, tree: ObjectTree, key: str) -> None:
        self.tree = tree
        self.key = key

    @property
    def name(self) -> str:
        """The last part of the key, or of the address where that is the whole place."""
        return str(self).rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def suffix(self) -> str:
        """The last suffix of the name."""
        return self.name[len(self.stem) :]

    @property
    def parent(self) -> ObjectPath:
        """The place above."""
        return ObjectPath(self.tree, self.key.rpartition("/")[0])

    @property
    def size(self) -> int:
        """Bytes of the object.

        Raises:
            FileNotFoundError: there is none.
        """
        if self.key not in self.tree.entries:
            raise FileNotFoundError(str(self))
        return self.tree.entries[self.key].size

    @property
    def tag(self) -> str | None:
        """The tag of the object's version; None where there is none."""
        entry = self.tree.entries.get(self.key)
        return entry.tag if entry else None

    def __truediv__(self, other: str) -> ObjectPath:
        return ObjectPath(self.tree, "/".join(part for part in (self.key, other) if part)) if other else self

    def joinpath(self, *others: str) -> ObjectPath:
        """The place below, by several parts."""
        return self / "/".join(others)

    def with_name(self, name: str) -> ObjectPath:
        """The place beside this one."""
        return self.parent / name

    def resolve(self) -> ObjectPath:
        """The same place: an address is whole."""
        return self

    def relative_to(self, other: ObjectPath) -> str:
        """The part of the key below another place."""
        return self.key.removeprefix(f"{other.key}/" if other.key else "")

    def exists(self) -> bool:
        """True if there is an object, or there are objects below."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """True if there is an object."""
        return self.key in self.tree.entries

    def is_dir(self) -> bool:
        """True if there are objects below."""
        return self.tree.is_folder(self.key)

    def iterdir(self) -> Iterator[ObjectPath]:
        """The objects and folders right below."""
        return (self / name for name in self.tree.children(self.key))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """The objects and folders right below whose names match."""
        return (each for each in self.iterdir() if fnmatchcase(each.name, pattern))

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """All objects below whose names match."""
        found = (ObjectPath(self.tree, key) for key in self.tree.under(self.key))
        return (each for each in found if fnmatchcase(each.name, pattern))

    def read_bytes(self) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: there is none.
        """
        return self.tree.read(self.key)

    def __str__(self) -> str:
        return f"{self.tree.objects.address}/{self.key}" if self.key else self.tree.objects.address

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))
