"""The memory budget of a collection: bytes fetched and not yet used, over all revisions together.

>>> budget = MemoryBudget(Bounds(ahead=100, early=150))
>>> budget.acquire(60, early=False)
>>> budget.release(60, early=False)
"""

from __future__ import annotations

import threading

from olmo_dynamics.collection.fetch_plan import Bounds

SMALL_RUN = 64 << 20
"""Bytes, 64 MiB, that may be held ahead however small the revisions are."""


class StoppedError(Exception):
    """The collection is ending, so nothing more is fetched."""


def most_held(bounds: Bounds, nbytes: int) -> tuple[int, int]:
    """Bytes that may be held in their turn, and altogether, where the largest revision has `nbytes`."""
    most = max(nbytes, SMALL_RUN)
    return min(bounds.ahead, most), min(2 * bounds.ahead, most)


class MemoryBudget:
    """Two accounts, of bytes in their turn and before it; a load waits until there is room.

    Together they stay within twice `bounds.ahead`, or within a revision's bytes if these are fewer. A load is always let through
    where its account is empty, however large it is: so a tensor larger than the bound is read all the same, and no load waits
    forever.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.most = 0
        self._bounds = bounds
        self._most_ahead, self._most_together = bounds.ahead, 2 * bounds.ahead
        self._revision = 0  # bytes of the largest that is known
        self._ahead = self._early = 0
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def held(self) -> int:
        """Bytes acquired and not released."""
        return self._ahead + self._early

    def acquire(self, nbytes: int, *, early: bool) -> None:
        """Wait until there is room for a load, and acquire it.

        Raises:
            StoppedError: `stop` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._fits(nbytes, early))
            if self._stopped:
                raise StoppedError
            self._add(nbytes, early)
            self.most = max(self.most, self.held)

    def release(self, nbytes: int, *, early: bool) -> None:
        """Release bytes that are in use, or dropped."""
        with self._changed:
            self._add(-nbytes, early)
            self._changed.notify_all()

    def expect(self, nbytes: int) -> None:
        """Hold at most one revision ahead, now that its bytes are known: more would take memory, and shorten no wait.

        Where the link is the limit little is held at all; where computing is, one revision bridges all its pauses.
        """
        with self._changed:
            self._revision = max(self._revision, nbytes)
            self._most_ahead, self._most_together = most_held(self._bounds, self._revision)
            self._changed.notify_all()

    def stop(self) -> None:
        """End every wait."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _add(self, nbytes: int, early: bool) -> None:
        if early:
            self._early += nbytes
        else:
            self._ahead += nbytes

    def _fits(self, nbytes: int, early: bool) -> bool:
        """True if there is room. Early bytes wait for their own account alone where no other byte is held, since others wait for
        them."""
        together = self.held + nbytes <= self._most_together
        if early:
            fits = self._early + nbytes <= self._bounds.early
            return (fits and together) or self._early == 0 or (fits and self._ahead == 0)
        return self._ahead == 0 or (self._ahead + nbytes <= self._most_ahead and together)
