"""How many bytes may be fetched and not yet used, over all revisions together.

>>> budget = Budget(Bounds(ahead=100, early=150))
>>> budget.take(60, early=False)
>>> budget.give(60, early=False)
"""

from __future__ import annotations

import threading

from olmo_dynamics.collection.itinerary import Bounds


class StoppedError(Exception):
    """Nothing more is to be fetched."""


class Budget:
    """Two accounts, of bytes in their turn and before it; whoever wants more than there is waits.

    Together they stay within twice `bounds.ahead`. One load is always let through where its account is empty, however large
    it is: so a tensor larger than the bound is read all the same, and nobody waits for ever.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.most = 0
        self._bounds = bounds
        self._ahead = self._early = 0
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def held(self) -> int:
        """Bytes taken and not given back."""
        return self._ahead + self._early

    def take(self, nbytes: int, *, early: bool) -> None:
        """Wait until there is room for a load, and take it.

        Raises:
            StoppedError: `stop` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._fits(nbytes, early))
            if self._stopped:
                raise StoppedError
            self._add(nbytes, early)
            self.most = max(self.most, self.held)

    def give(self, nbytes: int, *, early: bool) -> None:
        """Bytes are in use, or dropped."""
        with self._changed:
            self._add(-nbytes, early)
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _add(self, nbytes: int, early: bool) -> None:
        if early:
            self._early += nbytes
        else:
            self._ahead += nbytes

    def _fits(self, nbytes: int, early: bool) -> bool:
        """What comes early waits for no more than its own account where no other is held, since others wait for it."""
        together = self.held + nbytes <= 2 * self._bounds.ahead
        if early:
            fits = self._early + nbytes <= self._bounds.early
            return (fits and together) or self._early == 0 or (fits and self._ahead == 0)
        return self._ahead == 0 or (self._ahead + nbytes <= self._bounds.ahead and together)
