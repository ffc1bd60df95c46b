"""In-context learning: how much lower the loss is late in a window of the main probe than early.

>>> positions_compared(512), positions_compared(64), positions_compared(8)
((50, 500), (6, 52), None)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.inside.chosen_losses import ChosenLosses

WINDOW = 512
"""The shortest window whose positions 50 and 500 are compared, as in the paper."""


def positions_compared(window: int) -> tuple[int, int] | None:
    """The early and the late position of windows of so many tokens; None if these are too short."""
    early, late = (50, 500) if window >= WINDOW else (window // 10, window - 12)
    return (early, late) if 1 <= early < late else None


class InContextRecorder(Recorder):
    """The in-context score of the group `induction`, of the main probe."""

    group = GROUPS["induction"]
    sites = frozenset({Site.LOGITS})
    by_default = False

    def __init__(self) -> None:
        self._losses: ChosenLosses | None = None

    def attributes(self) -> Mapping[str, str | int | float]:
        """The positions that are compared; -1 where windows are too short."""
        early, late = self._compared or (-1, -1)
        return {"early_position": early, "late_position": late}

    def begin(self) -> None:
        """Choose the tokens: of windows that hold both positions."""
        probe = self.context.probe
        if probe is None or self._compared is None:
            return
        chosen = np.zeros_like(probe.mask)
        chosen[:, self._compared] = probe.mask[:, self._compared[1:]]
        self._losses = ChosenLosses(probe, chosen)

    def observe(self, seen: Observation) -> None:
        """Add the logits of some sequences and positions, for some columns of the vocabulary."""
        if self._losses is not None:
            self._losses.add(seen)

    def merge(self, other: InContextRecorder) -> None:
        """Add the sequences that `other` saw."""
        if self._losses is not None and other._losses is not None:
            self._losses.merge(other._losses)

    def finish(self) -> Iterator[Record]:
        """The score, if some window holds both positions."""
        if self._losses is None or self._compared is None:
            return
        early, late = self._compared
        losses = self._losses.of_tokens()
        differences = (losses[:, late] - losses[:, early])[self._chosen_windows(late)]
        if len(differences):
            yield self.record("in_context_score", differences.mean())

    def _chosen_windows(self, late: int) -> np.ndarray:
        assert self.context.probe is not None
        return self.context.probe.mask[:, late]

    @property
    def _compared(self) -> tuple[int, int] | None:
        probe = self.context.probe
        return None if probe is None else positions_compared(probe.mask.shape[1])
