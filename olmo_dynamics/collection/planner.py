"""What a collection will cost, before a weight moves: bytes, requests, memory, seconds and what they are spent on.

>>> plan("allenai/OLMo-2-0425-1B", revisions="stage1:log24", rate=100e6)  # doctest: +SKIP
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.choice import choose
from olmo_dynamics.collection.costs import Costs, costs_of
from olmo_dynamics.collection.itinerary import Bounds
from olmo_dynamics.collection.measurement import Options, settle
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.rates import Rates
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import open_store
from olmo_dynamics.frames.run import Run

DEFAULT_RATE = 100e6
"""Bytes per second assumed where no rate is stated."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a collection, of the revisions still to do; each is taken to cost as much as the first of them."""

    source: str
    revisions: tuple[str, ...]
    done: tuple[str, ...]
    each: Costs
    rates: Rates
    rate: float  # bytes per second that come
    left_out: tuple[str, ...] = ()  # selected, but in quarantine

    @property
    def to_do(self) -> tuple[str, ...]:
        """The revisions not yet in the store."""
        done = set(self.done)
        return tuple(name for name in self.revisions if name not in done)

    @property
    def nbytes(self) -> int:
        """Weight bytes to read."""
        return self.each.nbytes * len(self.to_do)

    @property
    def requests(self) -> int:
        """About how many range requests for weights; none for local files."""
        return self.each.requests * len(self.to_do)

    @property
    def peak_bytes(self) -> int:
        """About the most memory that is taken, mapped files not counted."""
        return self.each.peak_bytes

    @property
    def download_seconds(self) -> float:
        """Time to move the bytes at the rate."""
        return self.nbytes / self.rate

    @property
    def statistics_seconds(self) -> float:
        """Time for the parameter statistics."""
        return len(self.to_do) * self.each.surveyed_bytes / self.rates.surveyed

    @property
    def forward_seconds(self) -> float:
        """Time for the matrix products of the forward pass; the rest of it takes about half as much again."""
        return len(self.to_do) * self.each.flops / self.rates.flops

    @property
    def seconds(self) -> float:
        """The larger of moving and computing, which go on side by side."""
        return max(self.download_seconds, self.statistics_seconds + self.forward_seconds)


def plan(
    run: Run | Source | str | Path,
    *,
    revisions: str = "all",
    out: str | Path | None = None,
    rate: float = DEFAULT_RATE,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    **options: Unpack[Options],
) -> Plan:
    """What `collect` with the same arguments would cost: from one revision's headers, and a look at this machine's speed.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
        OptionError: the rate is not positive.
    """
    if not rate > 0:
        raise OptionError(f"rate must be positive bytes per second; got {rate}")
    measurement, limits = settle(options)
    run = run if isinstance(run, Run) else Run(run)
    choice = choose(run, revisions, quarantine=quarantine, include_quarantined=include_quarantined)
    mine = limits.of(choice.revisions)
    held = open_store(out).done if out is not None and Path(out).exists() else set()
    done = tuple(each.name for each in mine if each.name in held)
    opener = Opener(run, measurement, Bounds.of(limits.memory_bytes))
    with closing(opener):
        study = opener.settle(mine, done=done)
        each = costs_of(opener.first(), study, opener.bounds, mapped=opener.mapped)
    return Plan(
        source=run.name,
        revisions=tuple(each.name for each in mine),
        done=done,
        each=each,
        rates=Rates.measure(study.compute_dtype, device=measurement.device, threads=limits.thread_count),
        rate=min(rate, limits.bytes_per_second or rate),
        left_out=tuple(choice.left_out),
    )
