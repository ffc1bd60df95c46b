"""What the last audit of a source saw, kept in the cache: branches that move are found by it, and nothing is listed twice.

The record, and beside it the quarantine that `collect` obeys, may be deleted at any time; the next audit then asks for all again.

    >>> record_path(open_source("allenai/OLMo-2-0425-1B")).name
    'allenai--OLMo-2-0425-1B.json'
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo_dynamics import settings
from olmo_dynamics.checkpoints import Source

LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Record:
    """`states`: revision to commit at the last whole audit; `listings`: commit to files (size, hash); `configs`: by hash."""

    states: Mapping[str, str] = field(default_factory=dict)
    listings: Mapping[str, Mapping[str, tuple[int, str]]] = field(default_factory=dict)
    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def source_name(source: Source) -> str:
    """What a source is called wherever one stands: the repo id, or the folder's whole path."""
    return str(Path(source.name).expanduser().resolve()) if source.kind == "folder" else source.name


def record_path(source: Source) -> Path:
    """Where the record of a source lies."""
    name = source_name(source)
    if source.kind == "folder":
        stem = f"{Path(name).name}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    else:
        stem = name.replace("/", "--")
    return settings.cache_dir() / "audits" / f"{stem}.json"


def quarantine_path(source: Source) -> Path:
    """Where an audit leaves the quarantine that `collect` obeys."""
    return record_path(source).with_suffix(".quarantine.json")


def load_record(source: Source) -> Record:
    """The record of the last audit; an empty one where there is none that can be read."""
    try:
        kept = json.loads(record_path(source).read_text("utf-8"))
        if (kept["layout"], kept["source"]) != (LAYOUT, source_name(source)):
            return Record()
        listings = {
            str(commit): {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
            for commit, files in kept["listings"].items()
        }
        return Record(
            {str(name): str(state) for name, state in kept["states"].items()}, listings, dict(kept["configs"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Record()


def save_record(source: Source, record: Record) -> None:
    """Keep a record, whole or not at all; a cache that cannot be written only costs requests next time."""
    kept = {
        "layout": LAYOUT,
        "source": source_name(source),
        "states": dict(record.states),
        "listings": record.listings,
        "configs": record.configs,
    }
    with contextlib.suppress(OSError):
        write_json(record_path(source), kept)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
