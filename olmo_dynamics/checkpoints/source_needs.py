"""The needs of a source that another process opens: a folder at the same path, and the token of the hub.

>>> from olmo_dynamics.checkpoints import MemorySource
>>> local_folder(MemorySource({})), hub_token(MemorySource({}))
(None, '')
"""

from __future__ import annotations

from pathlib import Path

from olmo_dynamics.checkpoints.source import Source


def local_folder(source: Source) -> Path | None:
    """The folder that a source is read from; None for one that is read otherwise."""
    found: Path | None = getattr(source, "local_folder", None)
    return found


def hub_token(source: Source) -> str:
    """The token that a source's requests show, which is not part of it when it is pickled; empty without one."""
    found: str = getattr(source, "hub_token", "")
    return found
