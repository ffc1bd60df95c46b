"""What a collection will cost, before anything moves: revisions, bytes, requests, time at a stated rate.

>>> plan("allenai/OLMo-2-0425-1B", revisions="stage1:log24", rate=100e6)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from olmo_dynamics.checkpoints import REQUEST_BYTES, Checkpoint, Source
from olmo_dynamics.collection.choice import choose
from olmo_dynamics.collection.measurement import Measurement, Options
from olmo_dynamics.collection.study import choose_tensors
from olmo_dynamics.collection.walk import in_groups
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import open_store
from olmo_dynamics.frames.run import Run
from olmo_dynamics.names import Revision, TensorInfo

DEFAULT_RATE = 100e6
"""Bytes per second assumed where no rate is stated."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a collection; `nbytes`, `requests` and `seconds` are for the revisions still to do."""

    source: str
    revisions: tuple[str, ...]
    done: tuple[str, ...]
    revision_bytes: int
    revision_requests: int
    rate: float  # bytes per second
    left_out: tuple[str, ...] = ()  # selected, but in quarantine

    @property
    def to_do(self) -> tuple[str, ...]:
        """The revisions not yet in the store."""
        done = set(self.done)
        return tuple(name for name in self.revisions if name not in done)

    @property
    def nbytes(self) -> int:
        """Weight bytes to read."""
        return self.revision_bytes * len(self.to_do)

    @property
    def requests(self) -> int:
        """About how many range requests for weights (each at most 32 MiB); none for local files."""
        return self.revision_requests * len(self.to_do)

    @property
    def seconds(self) -> float:
        """Time to move the bytes at the stated rate; the forward pass overlaps it and may take longer."""
        return self.nbytes / self.rate


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
    """What `collect` with the same arguments would move: read from one revision's headers, no weights.

    Every revision is taken to be as large as the first that is still to do.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
        OptionError: the rate is not positive.
    """
    if not rate > 0:
        raise OptionError(f"rate must be positive bytes per second; got {rate}")
    measurement = Measurement(**options)
    run = run if isinstance(run, Run) else Run(run)
    choice = choose(run, revisions, quarantine=quarantine, include_quarantined=include_quarantined)
    chosen = choice.revisions
    done = _done(out, chosen)
    first = next((each for each in chosen if each.name not in done), chosen[0])
    with run.open(first) as checkpoint:
        needed = needed_tensors(checkpoint, measurement)
        requests = 0 if run.source.kind in ("folder", "memory") else _count_requests(needed)
        return Plan(
            source=run.name,
            revisions=tuple(each.name for each in chosen),
            done=done,
            revision_bytes=sum(info.nbytes for info in needed),
            revision_requests=requests,
            rate=rate,
            left_out=tuple(choice.left_out),
        )


def needed_tensors(checkpoint: Checkpoint, measurement: Measurement) -> list[TensorInfo]:
    """The tensors whose bytes a measurement reads: all of them where there is a forward pass."""
    if measurement.wants_forward:
        return list(checkpoint.tensors.values())
    return choose_tensors(checkpoint.tensors, measurement.tensors)


def _count_requests(infos: Sequence[TensorInfo]) -> int:
    """Requests for tensors read in groups: neighbours joined, at most `REQUEST_BYTES` each."""
    count = 0
    for group in in_groups(infos):
        runs: list[list[int]] = []
        for info in sorted(group, key=lambda info: (info.file, info.start)):
            if runs and info.start == runs[-1][1]:
                runs[-1][1] = info.stop
            else:
                runs.append([info.start, info.stop])
        count += sum(-(-(stop - start) // REQUEST_BYTES) for start, stop in runs)
    return count


def _done(out: str | Path | None, chosen: Sequence[Revision]) -> tuple[str, ...]:
    if out is None or not Path(out).exists():
        return ()
    done = open_store(out).done
    return tuple(each.name for each in chosen if each.name in done)
