"""Which revisions are measured, and what of them: those selected, without those that an audit put in quarantine, and
without what a store holds of them already.

>>> choose(Run("allenai/OLMo-2-1124-7B"), "stage1").left_out  # doctest: +SKIP
{'stage1-step101000-tokens424B': 'duplicate: 3 names, the same bytes …', …}
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from olmo_dynamics.auditing import find_quarantine, some
from olmo_dynamics.errors import SelectionError
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.frames.run import Run
from olmo_dynamics.names import Revision


@dataclass(frozen=True, slots=True)
class Choice:
    """The revisions to measure; `left_out` says of the others why, `file` is the quarantine that says so."""

    revisions: tuple[Revision, ...]
    left_out: dict[str, str]
    file: Path | None = None

    @property
    def summary(self) -> str:
        """What was left out, in one line."""
        if not self.left_out:
            return "nothing is left out"
        names = some(list(self.left_out), 5)
        return f"left out, as {self.file} says: {names}; --include-quarantined measures them too"


def choose(
    run: Run, expression: str, *, quarantine: str | Path | None = None, include_quarantined: bool = False
) -> Choice:
    """The selected revisions that are not in quarantine: in the file given, else in the one that the last audit left.

    Raises:
        SelectionError: the expression cannot be read, matches nothing, or all it matches is in quarantine.
        OptionError: the quarantine cannot be read, or is another source's.
    """
    selected = run.select(expression)
    if include_quarantined:
        return Choice(tuple(selected), {})
    found = find_quarantine(run.source, quarantine)
    left_out = {each.name: reason for each in selected if (reason := found.reason(each))}
    kept = tuple(each for each in selected if each.name not in left_out)
    if not kept:
        raise SelectionError(
            f"all {len(selected)} revisions that {expression!r} selects are in quarantine ({found.path}), "
            f"such as {selected[0].name}; --include-quarantined measures them"
        )
    return Choice(kept, left_out, found.path)


def done_of(out: str | Path, groups: Collection[str]) -> frozenset[str]:
    """The revisions of which a store, if it is there, holds all that is asked for, as far as it has such groups."""
    if not Path(out).exists():
        return frozenset()
    store = open_store(out)
    asked = set(groups) & set(store.groups)
    return frozenset(name for name in store.done if asked <= store.recorded(name))


def lacking_groups(
    store: RecordedStore | None, groups: Sequence[str], revisions: Sequence[Revision]
) -> dict[str, tuple[str, ...]]:
    """The groups of those asked for that a store does not hold of each revision; all of them where there is no store."""
    recorded = {each.name: store.recorded(each.name) if store else frozenset() for each in revisions}
    return {name: tuple(group for group in groups if group not in there) for name, there in recorded.items()}
