"""The state of a watched store or run: how far it is, and the picture that a reader chose.

>>> watched = LiveView("cache/demo/store.zarr")  # doctest: +SKIP
>>> watched.state({"quantity": "loss/cross_entropy"})["told"]  # doctest: +SKIP
'14 revisions, none missing'
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from olmo_dynamics.errors import OlmoDynamicsError, StoreError, counted
from olmo_dynamics.plots.explorer import Explored, look

_SINCE = "since"


class LiveView:
    """A path that is read again and again while another process writes there; nothing is written, and no lock is taken.

    Raises:
        StoreError: the path is a file, or not even the folder in which the store is to be is there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if self.path.is_file() or not self.path.absolute().parent.is_dir():
            raise StoreError(
                f"there is no store or run at {path}; give the folder that collect or fork writes, or will write"
            )
        self._lock = Lock()

    def state(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Read how far the job is and, unless the reader has it already, the picture: menus, chart and code.

        The field `since` is the version that the reader has. A store that cannot be read at this moment is told, not raised.
        """
        with self._lock:
            try:
                return self._read(asked)
            except OlmoDynamicsError as error:
                return {"version": "", "told": str(error)}

    def _read(self, asked: Mapping[str, str]) -> dict[str, Any]:
        if not self.path.is_dir():
            return {"version": "", "told": "waiting for the first revision"}
        explored = Explored.at(self.path)
        done, missing, updates = explored.state
        version = f"{done}-{missing}-{updates}"
        told = {"version": version, "told": _told(done, missing, updates), "done": done, "missing": missing}
        if asked.get(_SINCE) == version or not explored.quantities:
            return told
        return told | look(explored, asked).to_json()


def _told(done: int, missing: int, updates: int) -> str:
    """One line about a job."""
    parts = [counted(updates, "update")] if updates else []
    if done or missing:
        parts.append(f"{counted(done, 'revision')}, {missing or 'none'} missing")
    return "; ".join(parts) or "waiting for the first revision"
