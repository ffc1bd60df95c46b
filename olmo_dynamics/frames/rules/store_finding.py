"""A finding about a store, and the list of them as text, HTML and a table.

>>> one = StoreFinding("jump", "The loss falls at step 8.", "loss/cross_entropy", rule="r", false_alarm_rate=0.01)
>>> print(Findings((one,)))
1. The loss falls at step 8. (false alarms: at most 1 %)
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import overload

import polars as pl

KINDS = ("bytes", "outlier", "jump", "spike", "change point", "settling")
"""The kinds of findings."""


@dataclass(frozen=True, slots=True)
class StoreFinding:
    """One finding: a sentence, the place that it is about, and the rule that found it.

    `quantity` is `group/name`, and the report links it to that quantity's plot; empty for the revisions themselves.
    `false_alarm_rate` is the probability that the rule finds anything of this kind in data of its null, at most; 0 where equal
    bytes were compared. `strength` is how many times the rule's threshold is reached, infinite for equal bytes.
    """

    kind: str
    sentence: str
    quantity: str = ""
    where: str = ""
    line: str = ""
    revision: str = ""
    step: int | None = None
    value: float = math.nan
    rule: str = ""
    false_alarm_rate: float = 0.0
    strength: float = math.inf

    @property
    def rate(self) -> str:
        """The false-alarm rate in words."""
        if not self.false_alarm_rate:
            return "exact, no false alarms"
        return f"false alarms: at most {100 * self.false_alarm_rate:.2g} %"


@dataclass(frozen=True, slots=True)
class Findings(Sequence[StoreFinding]):
    """Findings of a store, strongest first; `note` says what could not be examined."""

    found: tuple[StoreFinding, ...] = ()
    note: str = ""

    @overload
    def __getitem__(self, place: int) -> StoreFinding: ...
    @overload
    def __getitem__(self, place: slice) -> Findings: ...
    def __getitem__(self, place: int | slice) -> StoreFinding | Findings:
        return Findings(self.found[place], self.note) if isinstance(place, slice) else self.found[place]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[StoreFinding]:
        return iter(self.found)

    @property
    def table(self) -> pl.DataFrame:
        """One row per finding, with the fields of `StoreFinding` as columns."""
        schema = {each.name: pl.String for each in fields(StoreFinding)} | _NUMBERS
        return pl.DataFrame([asdict(each) for each in self.found], schema=schema)

    def __str__(self) -> str:
        lines = [f"{number}. {each.sentence} ({each.rate})" for number, each in enumerate(self.found, 1)]
        return "\n".join([*lines, self.note] if self.note else lines or ["No findings."])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        items = "".join(
            f'<li>{html.escape(each.sentence)} <small title="{html.escape(each.rule)}">({each.rate})</small></li>'
            for each in self.found
        )
        listed = f"<ol>{items}</ol>" if items else ""
        last = self.note or ("" if items else "No findings.")
        return f"{listed}<p>{html.escape(last)}</p>" if last else listed


_NUMBERS = {"step": pl.Int64, "value": pl.Float64, "false_alarm_rate": pl.Float64, "strength": pl.Float64}
