"""A repo's list of revisions, kept on disk between runs, so that listing 1,500 branches costs one request an hour.

A catalogue only says what existed when it was fetched: what is read is pinned anew (see `hub`). It can be deleted at any
time, and one that cannot be read or written is as good as none.

    >>> catalogue = Catalogue("allenai/OLMo-2-0425-1B", "https://huggingface.co", 1_700_000_000.0, {"main": "a1847dff"})
    >>> catalogue.age(now=1_700_000_060.0)
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
class Catalogue:
    """Which branches and tags a repo had, at which commits, and when that was (seconds since 1970, UTC)."""

    repo: str
    endpoint: str
    fetched_at: float
    commits: dict[str, str]

    def age(self, now: float | None = None) -> float:
        """Seconds since it was fetched; infinite for one from the future, since some clock was wrong."""
        age = (time.time() if now is None else now) - self.fetched_at
        return age if age >= 0 else float("inf")


def catalogue_path(repo: str, endpoint: str, folder: Path | None = None) -> Path:
    """Where the catalogue of a repo on that hub lies."""
    host = endpoint.split("://", 1)[-1]
    name = quote(f"{host}/{repo}", safe="").replace("%2F", "--").replace("%3A", "_")
    return (folder or settings.cache_dir() / "catalogues") / f"{name}.json"


def load_catalogue(repo: str, endpoint: str, folder: Path | None = None) -> Catalogue | None:
    """The catalogue kept for that repo, or None where there is none that can be read."""
    try:
        kept = json.loads(catalogue_path(repo, endpoint, folder).read_text("utf-8"))
        catalogue = Catalogue(kept["repo"], kept["endpoint"], float(kept["fetched_at"]), dict(kept["commits"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = all(isinstance(word, str) for pair in catalogue.commits.items() for word in pair)
    return catalogue if known and (catalogue.repo, catalogue.endpoint) == (repo, endpoint) else None


def save_catalogue(catalogue: Catalogue, folder: Path | None = None) -> None:
    """Keep a catalogue, whole or not at all; a folder that cannot be written only costs a request next time."""
    path = catalogue_path(catalogue.repo, catalogue.endpoint, folder)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(catalogue), file, indent=1)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
