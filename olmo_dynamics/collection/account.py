"""What a collection did: bytes, shards checked, seconds, memory; to be put beside what was planned.

>>> account = Account()
>>> account.revisions, account.bytes_moved
(0, 0)
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, field

from olmo_dynamics.collection.fetching import Opened


@dataclass
class Account:
    """Grows with each revision that was recorded."""

    revisions: int = 0
    bytes_moved: int = 0
    shards: int = 0
    shards_checked: int = 0
    _started: float = field(default_factory=time.monotonic)

    def add(self, opened: Opened) -> None:
        """Count a revision that was measured."""
        self.revisions += 1
        self.bytes_moved += opened.checkpoint.bytes_moved
        if opened.hashes is not None:
            self.shards_checked += len(opened.hashes.checked)
            self.shards += len(opened.hashes.checked) + len(opened.hashes.unchecked)

    @property
    def seconds(self) -> float:
        """Since the collection began."""
        return time.monotonic() - self._started

    @property
    def peak_bytes(self) -> int:
        """The most memory this process ever had resident, mapped files included."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
