"""Resource usage of a collection, beside its plan.

>>> usage = ResourceUsage()
>>> usage.facts()["revisions"]
0
"""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from olmo_dynamics.collection.cost_estimate import CostEstimate, together
from olmo_dynamics.collection.prefetch import OpenRevision
from olmo_dynamics.collection.throughput import Throughput

_LONG = 20.0  # seconds from which it is worth looking how fast this machine computes


@dataclass(frozen=True, slots=True)
class RevisionUsage:
    """Resource usage of one revision that was measured.

    Attributes:
        planned: the estimated cost.
        nbytes: bytes received.
        fetched: bytes of the fetch plan, as they are counted while it is measured.
        requests: requests sent.
        shards: weight files read.
        shards_checked: those of them that match their published hash.
        peak_bytes: the most memory that the process which measured it ever had.
    """

    planned: CostEstimate
    nbytes: int
    fetched: int
    requests: int
    shards: int
    shards_checked: int
    peak_bytes: int

    @classmethod
    def of(cls, opened: OpenRevision, planned: CostEstimate) -> Self:
        """The usage of a revision that this process has just measured."""
        hashes = opened.hashes
        checked = len(hashes.checked) if hashes is not None else 0
        return cls(
            planned,
            opened.checkpoint.bytes_moved,
            opened.fetch_plan.nbytes,
            opened.checkpoint.requests_made,
            checked + (len(hashes.unchecked) if hashes is not None else 0),
            checked,
            peak_bytes(),
        )


@dataclass
class ResourceUsage:
    """Totals over the revisions recorded so far; `planned` is the estimated cost of all of them."""

    planned: CostEstimate = field(default_factory=lambda: together([]))
    revisions: int = 0
    nbytes: int = 0
    requests: int = 0
    shards: int = 0
    shards_checked: int = 0
    peak_bytes: int = 0
    _started: float = field(default_factory=time.monotonic)

    def add(self, used: RevisionUsage) -> None:
        """Count a revision that was measured."""
        self.planned = together([self.planned, used.planned])
        self.revisions += 1
        self.nbytes += used.nbytes
        self.requests += used.requests
        self.shards += used.shards
        self.shards_checked += used.shards_checked
        self.peak_bytes = max(self.peak_bytes, used.peak_bytes)

    @property
    def seconds(self) -> float:
        """Since the collection began."""
        return time.monotonic() - self._started

    def facts(self, throughput: Throughput | None = None) -> dict[str, float]:
        """Everything by name; bytes, seconds and counts. With `throughput`, how long computing alone is expected to take."""
        facts: dict[str, float] = {
            "revisions": self.revisions, "seconds": self.seconds, "bytes": self.nbytes, "planned_bytes": self.planned.nbytes,
            "requests": self.requests, "planned_requests": self.planned.requests,
            "peak_bytes": self.peak_bytes or peak_bytes(), "planned_peak_bytes": self.planned.peak_bytes,
            "shards": self.shards, "shards_checked": self.shards_checked,
        }  # fmt: skip
        if throughput is not None:
            facts["planned_compute_seconds"] = throughput.seconds(self.planned)
        return facts

    @property
    def is_long(self) -> bool:
        """True if the collection ran long enough to measure how fast this machine computes."""
        return self.seconds >= _LONG


def resident_bytes() -> int:
    """The memory that this process has now, mapped files included; where the system does not tell, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """The most memory this process ever had resident, mapped files included.

    Linux counts that of the process which started it too, but in /proc.
    """
    with suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
