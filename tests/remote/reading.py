"""All bytes of a store, wherever it is."""

from __future__ import annotations

from pathlib import Path

from olmo_dynamics.files import as_place, files_under


def contents(store: str | Path) -> dict[str, bytes]:
    """The bytes of every file by its name, read anew."""
    place = as_place(store)
    return {name: (place / name).read_bytes() for name in files_under(place)}
