"""Select the revisions to measure, and of each the groups that a store does not hold.

>>> select_revisions(open_source("allenai/OLMo-2-1124-7B"), "stage1").left_out  # doctest: +SKIP
{'stage1-step101000-tokens424B': 'duplicate: 3 names, the same bytes …', …}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from olmo_dynamics.auditing.findings import some
from olmo_dynamics.auditing.quarantine import QuarantineEntry, find_quarantine
from olmo_dynamics.auditing.recheck import recheck
from olmo_dynamics.checkpoints import Source, select
from olmo_dynamics.checkpoints.catalog.revision_names import PULL_REQUEST
from olmo_dynamics.errors import SelectionError, counted
from olmo_dynamics.names import Revision
from olmo_dynamics.store import Layout, Store


@dataclass(frozen=True, slots=True)
class Selection:
    """The revisions to measure; `left_out` says of the others why, `file` is the quarantine that says so.

    `notes` name the revisions that changed since they were put there, and were audited again. `partly` holds the entries of
    revisions that are measured but for some of their tensors.
    """

    revisions: tuple[Revision, ...]
    left_out: dict[str, str]
    file: Path | None = None
    notes: tuple[str, ...] = ()
    partly: Mapping[str, QuarantineEntry] = field(default_factory=dict)

    @property
    def sound_first(self) -> tuple[Revision, ...]:
        """The revisions to lay a store out for: those that are measured whole, if there are any."""
        return tuple(each for each in self.revisions if each.name not in self.partly) or self.revisions

    @property
    def summary(self) -> str:
        """The excluded revisions, in one line."""
        if not self.left_out:
            return "no revision is excluded"
        names = some(list(self.left_out), 5)
        return f"excluded, as {self.file} says: {names}; --include-quarantined measures them too"


def select_revisions(
    source: Source,
    expression: str | Collection[str],
    *,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
) -> Selection:
    """The selected revisions that are not in quarantine: in the file given, else in the one that the last audit left.

    The terms of the expression may be given as a list, too.

    Raises:
        SelectionError: the expression cannot be read, matches nothing, or matches only revisions in quarantine.
        OptionError: the quarantine cannot be read, or belongs to another source.
    """
    expression = expression if isinstance(expression, str) else ",".join(expression)
    pulls = [source.find(term.strip()) for term in expression.split(",") if PULL_REQUEST.fullmatch(term.strip())]
    selected = select([*source.revisions(), *pulls], expression)
    if include_quarantined:
        return Selection(tuple(selected), {})
    found, notes = recheck(source, find_quarantine(source, quarantine), selected)
    entries = {each.name: found.revisions[each.name] for each in selected if each.name in found.revisions}
    left_out = {name: "; ".join(entry.reasons) for name, entry in entries.items() if entry.is_whole}
    kept = tuple(each for each in selected if each.name not in left_out)
    if not kept:
        raise SelectionError(
            f"everything that {expression!r} selects ({counted(len(selected), 'revision')}) is in quarantine ({found.path}), "
            f"such as {selected[0].name}; --include-quarantined measures them"
        )
    partly = {name: entry for name, entry in entries.items() if not entry.is_whole}
    return Selection(kept, left_out, found.path, notes, partly)


def missing_groups(store: Store | None, layout: Layout, revisions: Sequence[Revision]) -> dict[str, tuple[str, ...]]:
    """The groups of a layout that a store does not hold of each revision; all of them where there is no store.

    Quantities of the store that the layout does not declare may be missing.
    """
    declared = layout.keys
    recorded = {each.name: store.recorded(each.name, declared) if store else frozenset() for each in revisions}
    return {name: tuple(group for group in layout.groups if group not in there) for name, there in recorded.items()}
