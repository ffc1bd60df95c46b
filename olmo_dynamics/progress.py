"""Progress of a long job: revision, bytes, rate, time left, on stderr or in a notebook.

A job calls the methods of `Progress`; the caller chooses the listener. `ProgressBar` draws with rich on a terminal, prints
one line per revision where stderr is a file, and in a notebook writes one output that it updates; the last update, a summary, is
what a saved notebook keeps. `Progress` itself prints nothing.

    >>> with Progress() as progress:
    ...     progress.expect(revisions=2, nbytes=100)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from html import escape
from types import MappingProxyType, TracebackType
from typing import Any, Self

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

_REDRAW_SECONDS = 0.2  # between two updates of a notebook's output
_NOTES = 8  # that a notebook shows


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


class NotebookOutput:
    """One output of a notebook cell, updated in place; its text needs no widget, so a saved notebook shows it as it was last.

    `display` is that of IPython, which with a `display_id` returns a handle.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None
        self._drawn = 0.0
        self.notes: list[str] = []

    def show(self, line: str, share: float | None = None, *, now: bool = False) -> None:
        """Show a line and a bar that is filled to `share`, unless it was drawn a moment ago; `now` draws it in any case."""
        if not now and time.monotonic() - self._drawn < _REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        lines = [line, *self.notes[-_NOTES:]]
        bar = "" if share is None else f'<progress value="{min(share, 1.0):.4f}" max="1"></progress> '
        words = "<br>".join(map(escape, lines))
        bundle = {"text/plain": "\n".join(lines), "text/html": f'<div class="olmo-dynamics">{bar}{words}</div>'}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def notebook_output() -> NotebookOutput | None:
    """An output of the running notebook; None outside a notebook."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return NotebookOutput(display)


class ProgressBar(Progress):
    """A progress bar on stderr, or in the output of a notebook's cell."""

    def __init__(self, console: Console | None = None) -> None:
        self._cell = notebook_output() if console is None else None
        self._console = console or Console(stderr=True)
        self._live = self._cell is None and self._console.is_terminal
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
        self._name, self._summary = "", ""
        self._done, self._revisions, self._moved, self._expected = 0, 0, 0, 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._cell and self._expected:
            stopped = f"stopped at {self._name}: " if kind else ""
            self._cell.show(stopped + (self._summary or self._totals()), now=True)

    def expect(self, *, revisions: int, nbytes: int) -> None:
        """Set the totals."""
        self._revisions, self._expected = revisions, nbytes
        self._started = time.monotonic()
        self._bar.update(self._task, total=nbytes, revisions=revisions)

    def begin(self, name: str) -> None:
        """Show the revision's name."""
        self._name = name
        self._bar.update(self._task, description=name)
        self._draw()

    def advance(self, nbytes: int) -> None:
        """Move the bar."""
        self._moved += nbytes
        self._bar.update(self._task, advance=nbytes)
        self._draw()

    def finish(self, name: str) -> None:
        """Count a revision; where there is neither terminal nor notebook, print a line."""
        self._done += 1
        self._name = name
        self._bar.update(self._task, done=self._done)
        self._draw()
        if not self._live and not self._cell:
            self._console.print(self._line(), highlight=False, markup=False, soft_wrap=True)

    def _draw(self, *, now: bool = False) -> None:
        if self._cell:
            share = self._moved / self._expected if self._expected else None
            self._cell.show(self._line() if self._name else "preparing", share, now=now)

    def _line(self) -> str:
        """The revision, the count, the amount, the rate and the time left."""
        rate = self._rate()
        left = max(self._expected - self._moved, 0) / rate if rate else 0.0
        return f"{self._name}  {self._done}/{self._revisions}  {self._amount(rate)}  {left:.0f} s left"

    def _totals(self) -> str:
        """The same when the job is over."""
        seconds = time.monotonic() - self._started
        return f"{self._done}/{self._revisions}  {self._amount(self._rate())}  {seconds:.0f} s"

    def _rate(self) -> float:
        seconds = time.monotonic() - self._started
        return self._moved / seconds if seconds > 0 else 0.0

    def _amount(self, rate: float) -> str:
        return f"{decimal(self._moved)}  {decimal(int(rate))}/s"

    def note(self, text: str) -> None:
        """Print a line above the bar; in a notebook below it."""
        if self._cell:
            self._cell.notes.append(text)
            self._draw(now=True)
            return
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def conclude(self, outcome: Mapping[str, float]) -> None:
        """Print the totals, and the plan in brackets."""
        super().conclude(outcome)
        if outcome["revisions"]:
            self._summary = _summary(outcome)
            if self._cell:
                self._cell.show(self._summary, now=True)
            else:
                self.note(self._summary)


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


class CopyBar(ProgressBar):
    """A progress bar of a copy, which counts bytes alone."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._bar.columns = self._bar.columns[:-1]
