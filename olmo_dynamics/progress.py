"""Progress of a long job: revision, bytes, rate, time left, on stderr.

A job calls the methods of `Progress`; the caller chooses the listener. `ProgressBar` draws with rich on a terminal and in
notebooks, and prints one line per revision where stderr is a file; `Progress` itself prints nothing.

    >>> with Progress() as progress:
    ...     progress.expect(revisions=2, nbytes=100)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress


class Progress:
    """A listener that prints nothing; the base of those that do. `outcome` holds the totals given at the end."""

    outcome: Mapping[str, float] = MappingProxyType({})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def expect(self, *, revisions: int, nbytes: int) -> None:
        """Expect so many revisions, and about so many bytes in all."""

    def begin(self, name: str) -> None:
        """Begin a revision (or a step of a job) called `name`."""

    def advance(self, nbytes: int) -> None:
        """Count another `nbytes` as measured."""

    def finish(self, name: str) -> None:
        """Count the revision called `name` as wholly recorded."""

    def note(self, text: str) -> None:
        """Show a line that the user should know, and that stops nothing."""

    def conclude(self, outcome: Mapping[str, float]) -> None:
        """End the job with its totals (bytes, seconds, counts), some of them beside the plan."""
        self.outcome = outcome


class ProgressBar(Progress):
    """A progress bar on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal or self._console.is_jupyter
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[done]}/{task.fields[revisions]} revisions"),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("collecting", total=None, done=0, revisions="?")
        self._done, self._revisions, self._moved, self._expected = 0, 0, 0, 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, *, revisions: int, nbytes: int) -> None:
        """Set the totals."""
        self._revisions, self._expected = revisions, nbytes
        self._started = time.monotonic()
        self._bar.update(self._task, total=nbytes, revisions=revisions)

    def begin(self, name: str) -> None:
        """Show the revision's name."""
        self._bar.update(self._task, description=name)

    def advance(self, nbytes: int) -> None:
        """Move the bar."""
        self._moved += nbytes
        self._bar.update(self._task, advance=nbytes)

    def finish(self, name: str) -> None:
        """Count a revision; where there is no terminal, print a line."""
        self._done += 1
        self._bar.update(self._task, done=self._done)
        if not self._live:
            seconds = time.monotonic() - self._started
            rate = self._moved / seconds if seconds > 0 else 0.0
            left = max(self._expected - self._moved, 0) / rate if rate else 0.0
            line = f"{name}  {self._done}/{self._revisions}  {self._amount(rate)}  {left:.0f} s left"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _amount(self, rate: float) -> str:
        return f"{decimal(self._moved)}  {decimal(int(rate))}/s"

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def conclude(self, outcome: Mapping[str, float]) -> None:
        """Print the totals, and the plan in brackets."""
        super().conclude(outcome)
        if outcome["revisions"]:
            self.note(_summary(outcome))


def _summary(outcome: Mapping[str, float]) -> str:
    parts = [
        f"{outcome['revisions']:.0f} revisions in {outcome['seconds']:.0f} s",
        f"{decimal(int(outcome['bytes']))} read ({decimal(int(outcome['planned_bytes']))} planned)",
        f"at most {decimal(int(outcome['peak_bytes']))} of memory (about {decimal(int(outcome['planned_peak_bytes']))} planned)",
    ]
    if outcome["requests"]:
        parts.insert(2, f"{outcome['requests']:.0f} requests ({outcome['planned_requests']:.0f} planned)")
    if outcome.get("planned_compute_seconds", 0) >= 1:
        parts.append(f"expected at least {outcome['planned_compute_seconds']:.0f} s of compute")
    if outcome["shards"]:
        parts.append(f"{outcome['shards_checked']:.0f} of {outcome['shards']:.0f} files match their published hash")
    return "; ".join(parts)


class StepBar(ProgressBar):
    """A progress bar that counts steps instead of bytes, for training and for listing."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._bar.columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
        )

    def _amount(self, rate: float) -> str:
        return f"{self._moved} steps  {rate:.0f} steps/s"
