"""A repo's list of revisions, kept on disk between runs, so that listing 1,500 branches costs one request per hour.

The list only tells which revisions existed when it was fetched: a revision is pinned again when it is read (see `hub`). It can
be deleted at any time, and a list that cannot be read or written is treated as missing.

    >>> refs = CachedRefs("allenai/OLMo-2-0425-1B", "https://huggingface.co", 1_700_000_000.0, {"main": "a1847dff"})
    >>> refs.age(now=1_700_000_060.0)
    60.0
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from olmo_dynamics import settings


@dataclass(frozen=True, slots=True)
class CachedRefs:
    """A repo's branches and tags with their commits, and the time they were fetched (seconds since 1970, UTC)."""

    repo: str
    endpoint: str
    fetched_at: float
    commits: dict[str, str]

    def age(self, now: float | None = None) -> float:
        """Seconds since it was fetched; infinite for a time in the future, since some clock was wrong."""
        age = (time.time() if now is None else now) - self.fetched_at
        return age if age >= 0 else float("inf")


def refs_path(repo: str, endpoint: str, folder: Path | None = None) -> Path:
    """The file of the cached list of a repo on that hub."""
    host = endpoint.split("://", 1)[-1]
    name = quote(f"{host}/{repo}", safe="").replace("%2F", "--").replace("%3A", "_")
    return (folder or settings.cache_dir() / "catalogues") / f"{name}.json"


def load_refs(repo: str, endpoint: str, folder: Path | None = None) -> CachedRefs | None:
    """The cached list of that repo, None if there is no readable one."""
    try:
        kept = json.loads(refs_path(repo, endpoint, folder).read_text("utf-8"))
        refs = CachedRefs(kept["repo"], kept["endpoint"], float(kept["fetched_at"]), dict(kept["commits"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_text = all(isinstance(word, str) for pair in refs.commits.items() for word in pair)
    return refs if is_text and (refs.repo, refs.endpoint) == (repo, endpoint) else None


def save_refs(refs: CachedRefs, folder: Path | None = None) -> None:
    """Write a list whole or not at all; a folder that cannot be written only costs a request next time."""
    path = refs_path(refs.repo, refs.endpoint, folder)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(refs), file, indent=1)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
