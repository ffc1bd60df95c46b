"""The record of a source's last audit, kept in the cache: it shows which branches moved, and no files are listed twice.

The record, and the quarantine beside it that `collect` reads, may be deleted at any time; the next audit then lists everything
again.

    >>> from olmo_dynamics.checkpoints import open_source
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

_CACHED = "--cached"  # of the part of a repo that the Hugging Face cache holds, beside the record of the whole repo


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """`states`: revision to commit at the last whole audit; `listings`: commit to files (size, hash); `configs`: by hash."""

    states: Mapping[str, str] = field(default_factory=dict)
    listings: Mapping[str, Mapping[str, tuple[int, str]]] = field(default_factory=dict)
    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def source_name(source: Source) -> str:
    """A source's name, the same from every working directory: the repo id, or the folder's whole path."""
    return str(Path(source.name).expanduser().resolve()) if source.kind == "folder" else source.name


def record_path(source: Source) -> Path:
    """The file of a source's record."""
    name = source_name(source)
    if source.kind == "folder":
        stem = f"{Path(name).name}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    else:
        stem = name.replace("/", "--") + (_CACHED if source.kind == "cache" else "")
    return settings.cache_dir() / "audits" / f"{stem}.json"


def quarantine_path(source: Source) -> Path:
    """The file of the quarantine that an audit writes and `collect` reads."""
    return record_path(source).with_suffix(".quarantine.json")


def known_quarantines(source: Source) -> list[Path]:
    """The files that may hold the quarantine of a source, the nearest first: that of the whole repo counts for its cache."""
    own = quarantine_path(source)
    whole = own.with_name(own.name.replace(_CACHED, "")) if source.kind == "cache" else own
    return [path for path in dict.fromkeys((own, whole)) if path.is_file()]


def load_record(source: Source) -> AuditRecord:
    """The record of the last audit; an empty one if there is no readable record."""
    try:
        kept = json.loads(record_path(source).read_text("utf-8"))
        if (kept["layout"], kept["source"]) != (LAYOUT, source_name(source)):
            return AuditRecord()
        listings = {
            str(commit): {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
            for commit, files in kept["listings"].items()
        }
        return AuditRecord(
            {str(name): str(state) for name, state in kept["states"].items()}, listings, dict(kept["configs"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return AuditRecord()


def save_record(source: Source, record: AuditRecord) -> None:
    """Write a record whole or not at all; a cache that cannot be written only costs requests next time."""
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
