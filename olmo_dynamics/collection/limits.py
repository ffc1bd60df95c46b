"""Limits of a collection: memory, rate, threads, and its part of the revisions.

>>> parse_bytes("512MB"), parse_bytes("2GiB"), Limits(shard="2/8").of(["a", "b", "c"])
(512000000, 2147483648, ['b'])
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from olmo_dynamics.errors import OptionError

DEFAULT_MEMORY = "1GiB"

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]i?)?B?(?:/s)?", re.IGNORECASE)
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of memory, rate and threads, and the part of the revisions to measure.

    Attributes:
        max_memory: bytes fetched and not yet used, as a number or such as `512MB`, `2GiB`.
        max_rate: bytes per second over the network, as a number or such as `50MB`; None for no limit.
        threads: for statistics and the forward pass; None for one per core. Results do not depend on it.
        shard: `K/N`, the K-th of N parts of the revisions, for N processes; empty for all of them.
    """

    max_memory: int | str = DEFAULT_MEMORY
    max_rate: float | str | None = None
    threads: int | None = None
    shard: str = ""

    def __post_init__(self) -> None:
        for name in ("max_memory", "max_rate"):
            given = getattr(self, name)
            if given is not None and parse_bytes(given) < 1:
                raise OptionError(f"{name} must be at least one byte; got {given!r}", option=name)
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads must be at least 1; got {self.threads}", option="threads")
        self._parts()

    @property
    def memory_bytes(self) -> int:
        """Bytes fetched and not yet used."""
        return parse_bytes(self.max_memory)

    @property
    def bytes_per_second(self) -> float | None:
        """The most bytes received per second, None for no limit."""
        return None if self.max_rate is None else parse_bytes(self.max_rate)

    @property
    def thread_count(self) -> int:
        """Threads that compute."""
        if self.threads is not None:
            return self.threads
        if hasattr(os, "sched_getaffinity"):  # the cores that this process may use; macOS has no such call
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part: each N-th, from the K-th on."""
        part, parts = self._parts()
        return list(items[part - 1 :: parts])

    def _parts(self) -> tuple[int, int]:
        if not self.shard:
            return 1, 1
        found = _SHARD.fullmatch(self.shard)
        part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= part <= parts:
            raise OptionError(f"shard must be K/N such as 2/8, K from 1 to N; got {self.shard!r}", option="shard")
        return part, parts


def parse_bytes(given: float | str) -> int:
    """`512MB` as 512 000 000, `2GiB` as 2 147 483 648; a number is bytes.

    Raises:
        OptionError: the text is not an amount of bytes.
    """
    if not isinstance(given, str):
        return int(given)
    found = _AMOUNT.fullmatch(given.strip())
    if not found:
        raise OptionError(f"an amount of bytes must look like 512MB or 2GiB (got {given!r})")
    return int(float(found[1]) * _UNITS[(found[2] or "").lower()])
