"""Checks of the contents of revisions: missing parts, unusual sizes and files, moved branches.

>>> from olmo_dynamics.auditing.evidence import FileFacts
>>> from olmo_dynamics.checkpoints import parse_revision
>>> files = {"model.safetensors": FileFacts(8, "a1b2c3")}
>>> listings = {"step1": RevisionFiles(parse_revision("step1"), files)}
>>> [finding.line for finding in find_incomplete(Evidence("run", (), listings=listings))]
['incomplete: no config (expected config.json)']
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from olmo_dynamics.auditing.evidence import Evidence, RevisionFiles
from olmo_dynamics.auditing.findings import Finding, Severity, some
from olmo_dynamics.checkpoints.source import CONFIG_FILE

SAME_SIZE = 0.001
"""Sizes that differ by less than this share count as equal: headers and archives vary a little, tensors do not."""

Value = TypeVar("Value", bound=Hashable)

_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.[a-z]+)")


def find_incomplete(evidence: Evidence) -> list[Finding]:
    """Revisions without weights or config, with a shard missing, or with files that cannot be read."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, listing in evidence.listings.items():
        for expected, actual in _gaps(listing):
            found[expected, actual].append(name)
    for name, problem in evidence.broken.items():
        found["files that can be read", problem].append(name)
    return [
        Finding("incomplete", Severity.WRONG, tuple(names), expected, actual, quarantine=tuple(names))
        for (expected, actual), names in found.items()
    ]


def _gaps(listing: RevisionFiles) -> list[tuple[str, str]]:
    """Missing parts of a revision's files, as pairs of the expected and the actual state."""
    if listing.problem:
        return [("a list of files", listing.problem)]
    found = [] if CONFIG_FILE in listing.files or "config.yaml" in listing.files else [("config.json", "no config")]
    if not listing.weights:
        return [*found, ("weights", "no weights")]
    shards = [part for name in listing.weights if (part := _SHARD.fullmatch(name))]
    for stem, total, ending in sorted({(part[1], part[3], part[4]) for part in shards}):
        names = [f"{stem}-{number:05d}-of-{total}{ending}" for number in range(1, int(total) + 1)]
        if missing := [name for name in names if name not in listing.files]:
            found.append((f"{int(total)} shards", f"{some(missing)} is missing" if len(missing) == 1 else
                          f"{some(missing)} are missing"))  # fmt: skip
    return found


def find_drift(evidence: Evidence) -> list[Finding]:
    """Revisions whose weights have another size, or are split into other files, than most."""
    held = {name: listing.weights for name, listing in evidence.listings.items() if listing.weights}
    # revisions with missing shards are reported as incomplete
    weights = {name: files for name, files in held.items() if not _cut_short(list(files))}
    sizes = {name: sum(facts.size for facts in files.values()) for name, files in weights.items()}
    files = {name: tuple(sorted(names)) for name, names in weights.items()}
    common = _most_common_size(list(sizes.values()))
    return _size_drift(sizes, common) + _file_drift(files)


def majority(values: Mapping[str, Value]) -> Value | None:
    """The value that more than half of the revisions have, if there is one."""
    for value, count in Counter(values.values()).most_common(1):
        return value if 2 * count > len(values) else None
    return None


def _most_common_size(sizes: list[int]) -> int | None:
    """The size that is near to more than half of the sizes."""
    for size in sorted(set(sizes)):
        if 2 * sum(_near(size, other) for other in sizes) > len(sizes):
            return size
    return None


def _near(size: int, other: int) -> bool:
    return abs(size - other) <= max(SAME_SIZE * size, 4096)  # small headers weigh more in small files


def _size_drift(sizes: Mapping[str, int], common: int | None) -> list[Finding]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, size in sizes.items():
        if common and not _near(common, size):
            ratio = size / common
            kind = "dtype" if any(abs(ratio - other) < 0.01 for other in (0.5, 2.0)) else "shape"
            guess = f", {ratio:.3g} times as many: another dtype" if kind == "dtype" else ""
            groups[kind, f"{size} bytes of weights{guess}"].append(name)
    return [
        Finding(kind, Severity.DOUBTFUL, tuple(names), f"{common} bytes, as most revisions have", found)
        for (kind, found), names in groups.items()
    ]


def _file_drift(files: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    common = majority(files)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, names in files.items():
        if common is not None and names != common:
            groups[names].append(name)
    expected = some(common or ())
    return [
        Finding("shards", Severity.NOTE, tuple(names), f"{expected}, as most revisions have", some(list(others)))
        for others, names in groups.items()
    ]


def _cut_short(names: Sequence[str]) -> bool:
    """True if shards are missing."""
    parts = [part for name in names if (part := _SHARD.fullmatch(name))]
    return any(len(parts) < int(part[3]) for part in parts)


def find_moves(evidence: Evidence) -> list[Finding]:
    """Branches that changed or were deleted since the last audit."""
    now = {name: listing.state for name, listing in evidence.listings.items()}
    moved = [name for name, state in now.items() if evidence.before.get(name, state) != state]
    gone = tuple(name for name in evidence.before if name not in now)
    found = [
        Finding(
            "moved", Severity.DOUBTFUL, (name,), f"{evidence.before[name][:12]}, as at the last audit", now[name][:12]
        )
        for name in moved
    ]
    return found + (
        [Finding("moved", Severity.NOTE, gone, "the branches of the last audit", "no longer there")] if gone else []
    )
