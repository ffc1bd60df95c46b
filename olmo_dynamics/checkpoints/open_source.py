"""Opening a source by its name: the address of a checkpoint, a folder, or a hub repo.

>>> open_source("allenai/OLMo-2-0425-1B").kind
'hub'
"""

from __future__ import annotations

import re
from pathlib import Path

from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.checkpoints.source import Source
from olmo_dynamics.errors import UnknownSourceError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_source(name: str | Path) -> Source:
    """Open the source of that name: the address of a checkpoint, an existing folder, or a hub repo.

    Raises:
        UnknownSourceError: the name is none of these.
    """
    if str(name).startswith(("https://", "http://")):
        from olmo_dynamics.checkpoints.web import WebSource

        return WebSource(str(name))
    if name and Path(name).expanduser().is_dir():
        return FolderSource(name)
    if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not any(word in name for word in ("--", "..")):
        from olmo_dynamics.checkpoints.hub import HubSource

        return HubSource(name)
    raise UnknownSourceError(
        f"a source must be a folder of checkpoints or a hub repo such as allenai/OLMo-2-0425-1B (got {str(name)!r}); "
        "check the spelling and the working directory"
    )
