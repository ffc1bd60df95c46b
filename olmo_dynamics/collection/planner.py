"""What a collection will cost, before a weight moves: bytes, requests, memory, seconds and what they are spent on.

>>> plan("allenai/OLMo-2-0425-1B", revisions="stage1:log24", rate=100e6)  # doctest: +SKIP
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.choice import choose, done_of, lacking_groups
from olmo_dynamics.collection.costs import Costs, costs_of, together
from olmo_dynamics.collection.itinerary import Bounds
from olmo_dynamics.collection.link import MEASURED, Speed
from olmo_dynamics.collection.measurement import Options, settle
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.rates import Rates
from olmo_dynamics.frames import open_store
from olmo_dynamics.frames.run import Run
from olmo_dynamics.settings import wake_on_interrupt


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a collection, of what is still to do; each revision is taken to be as large as the first of them."""

    source: str
    revisions: tuple[str, ...]
    done: tuple[str, ...]
    costs: Costs
    rates: Rates
    speed: Speed
    left_out: tuple[str, ...] = ()  # selected, but in quarantine

    @property
    def to_do(self) -> tuple[str, ...]:
        """The revisions not yet in the store."""
        done = set(self.done)
        return tuple(name for name in self.revisions if name not in done)

    @property
    def nbytes(self) -> int:
        """Weight bytes to read."""
        return self.costs.nbytes

    @property
    def requests(self) -> int:
        """About how many range requests for weights; none for local files."""
        return self.costs.requests

    @property
    def peak_bytes(self) -> int:
        """About the most memory that is taken, mapped files not counted."""
        return self.costs.peak_bytes

    @property
    def rate(self) -> float:
        """Bytes per second that come."""
        return self.speed.rate

    @property
    def rate_from(self) -> str:
        """Whether the rate was `stated`, `measured`, or `assumed`."""
        return self.speed.origin

    @property
    def download_seconds(self) -> float:
        """Time to move the bytes at the rate."""
        return self.nbytes / self.rate

    @property
    def statistics_seconds(self) -> float:
        """Time for the parameter statistics."""
        return self.costs.surveyed_bytes / self.rates.surveyed

    @property
    def forward_seconds(self) -> float:
        """Time for the matrix products of the forward pass; the rest of it takes about half as much again."""
        return self.costs.flops / self.rates.flops

    @property
    def seconds(self) -> float:
        """The larger of moving and computing, which go on side by side."""
        return max(self.download_seconds, self.statistics_seconds + self.forward_seconds)


def plan(
    run: Run | Source | str | Path,
    *,
    revisions: str = "all",
    out: str | Path | None = None,
    rate: float | str | None = None,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    **options: Unpack[Options],
) -> Plan:
    """What `collect` with the same arguments would cost: from one revision's headers, and a look at this machine's speed.

    `rate` is in bytes per second, 100 MB/s where it is not given; "measured" reads at most 8 MiB of one tensor to find it out.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
        OptionError: the rate is not positive.
    """
    speed = Speed.of(None if rate == MEASURED else rate)
    wake_on_interrupt()
    measurement, limits = settle(options)
    run = run if isinstance(run, Run) else Run(run)
    choice = choose(run, revisions, quarantine=quarantine, include_quarantined=include_quarantined)
    mine = limits.of(choice.revisions)
    opener = Opener(run, measurement, Bounds.of(limits.memory_bytes))
    with closing(opener):
        study = opener.settle(mine, done=done_of(out, measurement.groups) if out else ())
        store = open_store(out) if out and Path(out).exists() else None
        lacking = lacking_groups(store, study.groups, mine)
        ways = {groups: opener.first(groups) for groups in set(lacking.values()) if groups}
        costs = {groups: costs_of(way, study, opener.bounds, mapped=opener.mapped) for groups, way in ways.items()}
        if rate == MEASURED and ways:
            run.source.limit_rate(limits.bytes_per_second)
            speed = Speed.measure(next(iter(ways.values())).checkpoint)
    return Plan(
        source=run.name,
        revisions=tuple(each.name for each in mine),
        done=tuple(name for name, groups in lacking.items() if not groups),
        costs=together([costs[groups] for groups in lacking.values() if groups]),
        rates=Rates.measure(study.compute_dtype, device=measurement.device, threads=limits.thread_count),
        speed=speed.limited(limits.bytes_per_second),
        left_out=tuple(choice.left_out),
    )
