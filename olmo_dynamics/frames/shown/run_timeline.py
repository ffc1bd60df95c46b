"""A run's revisions as a timeline by line of training, with their formats and the run's known faults.

>>> from olmo_dynamics.names import Revision
>>> found = timelines([Revision("step0", step=0), Revision("step100", step=100)])
>>> found[0].name, found[0].told, found[0].places
('run', '2 revisions, step 0 to 100', (0.0, 1.0))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from olmo_dynamics.checkpoints import Source, known_run
from olmo_dynamics.errors import OlmoDynamicsError, counted
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.as_html import Html, as_text, shown, strip, table

_LETTERS = 40  # of a timeline in a terminal
_MOST_LINES = 24  # of training


@dataclass(frozen=True)
class Timeline:
    """One line of training: its name, a sentence on its revisions, and their places on the whole training, from 0 to 1."""

    name: str
    told: str
    places: tuple[float, ...]

    @property
    def text(self) -> str:
        """The places as letters: `█` where there are revisions, `·` elsewhere."""
        filled = {min(int(place * _LETTERS), _LETTERS - 1) for place in self.places}
        return "".join("█" if each in filled else "·" for each in range(_LETTERS))


def timelines(revisions: Sequence[Revision]) -> list[Timeline]:
    """The lines of training of a run, in the order of their first revisions, on one axis of steps.

    The axis counts through all stages where that is known, and else the steps of each stage.
    """
    lines: dict[str, list[Revision]] = {}
    for each in revisions:
        lines.setdefault(each.line, []).append(each)
    last = max((place for each in revisions if (place := _place(each)) is not None), default=0) or 1
    return [Timeline(name, _told(held), _places(held, last)) for name, held in lines.items()]


def run_html(source: Source, revisions: Sequence[Revision] | OlmoDynamicsError) -> Html:
    """A run as HTML: its timeline, formats and known faults; the error in its place where revisions cannot be listed."""
    if isinstance(revisions, OlmoDynamicsError):
        return shown(_title(source), _not_listed(revisions))
    every = timelines(revisions)
    rows = [(each.name, strip(each.places, each.told), each.told) for each in every[:_MOST_LINES]]
    rest = [("…", "", _more(every))] if len(every) > _MOST_LINES else []
    faults = table(("known fault", "", "reported in"), _faults(source))
    return shown(_title(source), _facts(source, revisions), table((), [*rows, *rest]), faults)


def run_text(source: Source, revisions: Sequence[Revision] | OlmoDynamicsError) -> str:
    """A run as lines of text."""
    if isinstance(revisions, OlmoDynamicsError):
        return as_text(_title(source), _not_listed(revisions))
    every = timelines(revisions)
    lines = {each.name: f"{each.text}  {each.told}" for each in every[:_MOST_LINES]}
    more = {"…": _more(every)} if len(every) > _MOST_LINES else {}
    faults = {f"known fault {number}": f"{what} ({kind})" for number, (kind, what, _) in enumerate(_faults(source), 1)}
    return as_text(_title(source), lines | more | _facts(source, revisions) | faults)


def _title(source: Source) -> str:
    return f"Run {source.name}"


def _not_listed(error: OlmoDynamicsError) -> dict[str, str]:
    return {"revisions": f"cannot be listed: {error}"}


def _facts(source: Source, revisions: Sequence[Revision]) -> dict[str, str]:
    formats = Counter(each.format for each in revisions)
    facts = {
        "revisions": str(len(revisions)),
        "formats": ", ".join(f"{name} ({count})" for name, count in formats.items()) or "none",
    }
    return facts | {f"note {number}": note for number, note in enumerate(source.notes, 1)}


def _faults(source: Source) -> list[tuple[str, str, str]]:
    """Kind, description and reference of each known fault of a repo."""
    run = known_run(source.name)
    return [(each.kind, each.what, each.reference) for each in run.faults_of(source.name)] if run else []


def _more(every: Sequence[Timeline]) -> str:
    return f"and {len(every) - _MOST_LINES} further lines of training"


def _place(revision: Revision) -> int | None:
    return revision.step if revision.position_step is None else revision.position_step


def _places(revisions: Sequence[Revision], last: int) -> tuple[float, ...]:
    return tuple(place / last for each in revisions if (place := _place(each)) is not None)


def _told(revisions: Sequence[Revision]) -> str:
    steps = [each.step for each in revisions if each.step is not None]
    words = counted(len(revisions), "revision")
    if not steps:
        return words
    return f"{words}, step {min(steps):,}" + (f" to {max(steps):,}" if len(set(steps)) > 1 else "")
