"""A folder of runs: a Zarr group whose attribute `runs` names the runs, and a store of each as a group in it.

    >>> RunFolder("datadecide").add(["allenai/DataDecide-c4-300M"])  # doctest: +SKIP
    {'allenai/DataDecide-c4-300M': PosixPath('datadecide/allenai--DataDecide-c4-300M')}

Each store is whole by itself: it is written, checked, repaired and continued like any other, so a process that is killed leaves
no more than one revision of one run to measure anew. The folder's own `zarr.json` is written before the first revision.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from olmo_dynamics.errors import OptionError, StoreBusyError, StoreDamagedError, StoreError
from olmo_dynamics.files import Place, as_place, is_there, write_atomic
from olmo_dynamics.store.locks import locked
from olmo_dynamics.store.zarr_format import DOCUMENT

RUNS = "runs"
"""The attribute that maps each run's source to its group, model type and config."""

_GROUP = "group"
_PARTIAL = f".{DOCUMENT}.partial"
_PATIENCE = 10.0  # seconds to wait for another process that changes the document


class RunFolder:
    """The runs of a folder, by source; the folder need not exist yet."""

    def __init__(self, path: str | Place) -> None:
        self.path = as_place(path)

    @property
    def exists(self) -> bool:
        """True if there is a folder of runs at the path."""
        return self._runs() is not None

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """The entry of each run, by its source."""
        return self._runs() or {}

    @property
    def stores(self) -> dict[str, Place]:
        """The path of each run's store, by source; it may not be there yet."""
        return {source: self.path / entry[_GROUP] for source, entry in self.runs.items()}

    def add(self, sources: Iterable[str]) -> dict[str, Place]:
        """Write further runs into the folder, which is made if it is not there; returns the path of each given run's store.

        Raises:
            OptionError: there is a store of a single run, or another folder, at the path.
            StoreBusyError: another process is writing the folder.
            DiskFullError: no room.
        """
        given = list(sources)
        if is_there(self.path) and not self.exists and any(each.name != _PARTIAL for each in self._inside()):
            raise OptionError(
                f"--out must be a new folder, or a folder of runs, for several runs (got {self.path}); give another --out"
            )
        if isinstance(self.path, Path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._held():
            runs = self.runs
            for source in given:
                if source not in runs:
                    runs[source] = {_GROUP: _group_name(source, {entry[_GROUP] for entry in runs.values()})}
            self._write(runs)
        return {source: self.path / runs[source][_GROUP] for source in given}

    def planned(self, sources: Iterable[str]) -> dict[str, Place]:
        """The paths that `add` would return; nothing is written."""
        taken = {entry[_GROUP] for entry in self.runs.values()}
        found = self.stores
        for source in sources:
            if source not in found:
                found[source] = self.path / _group_name(source, taken)
                taken.add(found[source].name)
        return found

    def describe(self, source: str, **facts: Any) -> None:
        """Write facts such as the model type into a run's entry."""
        with self._held():
            runs = self.runs
            runs[source] = {**runs[source], **facts}
            self._write(runs)

    def _write(self, runs: dict[str, dict[str, Any]]) -> None:
        attributes = {"title": "stores of several runs", "olmo_dynamics_version": version("olmo-dynamics"), RUNS: runs}
        document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        path = self.path / DOCUMENT
        write_atomic(path, json.dumps(document, indent=1).encode(), partial=path.with_name(_PARTIAL))

    def _inside(self) -> list[Place]:
        return list(self.path.iterdir()) if self.path.is_dir() else [self.path]

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the folder's document for the moment of a change; another process may be changing it just now."""
        stop = time.monotonic() + _PATIENCE
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.path))
                    break
                except StoreBusyError:
                    if time.monotonic() > stop:
                        raise
                    time.sleep(0.1)
            yield

    def _runs(self) -> dict[str, dict[str, Any]] | None:
        """The entries; None if the path holds no folder of runs.

        Raises:
            StoreDamagedError: its document cannot be read.
        """
        path = self.path / DOCUMENT
        if not path.is_file():
            return None
        try:
            document = json.loads(path.read_bytes())
            attributes = document["attributes"]
        except (ValueError, KeyError, TypeError):
            return None  # a single store's document is damaged, which its own reader tells
        if not isinstance(attributes, dict) or "layout_version" in attributes or RUNS not in attributes:
            return None
        runs = attributes[RUNS]
        if not isinstance(runs, dict) or not all(_is_entry(each) for each in runs.values()):
            raise StoreDamagedError(f"{path} must map each run to its group; collect the runs into another folder")
        return runs


def require_stores(folder: RunFolder) -> dict[str, Place]:
    """The stores of a folder that are there, by source.

    Raises:
        StoreError: none is.
    """
    found = {source: path for source, path in folder.stores.items() if (path / DOCUMENT).is_file()}
    if not found:
        raise StoreError(f"{folder.path} holds no store of its runs yet; run olmo-dyn collect again")
    return found


def _is_entry(entry: Any) -> bool:
    """True for an entry whose group lies in the folder itself."""
    name = entry.get(_GROUP) if isinstance(entry, dict) else None
    return isinstance(name, str) and re.fullmatch(r"[^/\\]+", name) is not None and name not in (".", "..")


def _group_name(source: str, taken: set[str]) -> str:
    """A name for a run's group: a repo's id with -- for the slash, or the last part of a path."""
    parts = [part for part in re.split(r"[/\\]", source.rstrip("/\\")) if part not in ("", ".", "..")]
    is_repo = len(parts) == 2 and not source.startswith((".", "~", "/"))
    name = "--".join(parts if is_repo else parts[-1:]) or "run"
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)
