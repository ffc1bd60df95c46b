"""Claims: measured figures beside their targets, in one table at the end of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A figure, and the most that it may be; or the least, with `at_least`."""

    what: str
    value: float
    target: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """True if the figure keeps to its target; a figure that could not be measured does not."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def row(self) -> tuple[str, str, str, str]:
        """The cells of a table: the subject, the figure, its target, and the verdict."""
        value = "not measured" if math.isnan(self.value) else self._written(self.value)
        bound = "at least" if self.at_least else "at most"
        return self.what, value, f"{bound} {self._written(self.target)}", "met" if self.met else "NOT MET"

    def _written(self, value: float) -> str:
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{value:.0f} {self.unit}" if abs(value) >= 100 else f"{value:.3g} {self.unit}".rstrip()


def print_claims(claims: Sequence[Claim]) -> None:
    """Print one line per claim."""
    print(f"\n{'what':<84} {'measured':>13}  {'target':<18} ")
    for claim in claims:
        what, value, target, verdict = claim.row()
        print(f"{what:<84} {value:>13}  {target:<18} {verdict}")
