"""Availability of each step: on the hub, in a native store, or both.

>>> found = join_lists(source.revisions(), [read_list("OLMo-2-1124-7B.csv")])  # doctest: +SKIP
>>> [each.revision.name for each in found if not each.hub]  # doctest: +SKIP
['stage1-step0', …]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from olmo_dynamics.checkpoints.catalog.known_runs import KnownRun
from olmo_dynamics.checkpoints.catalog.official_lists import ListedRow, OfficialList
from olmo_dynamics.checkpoints.catalog.positions import with_positions
from olmo_dynamics.checkpoints.catalog.revision_names import sort_key
from olmo_dynamics.names import Revision

Key = tuple[int, str | None, int]


@dataclass(frozen=True, slots=True)
class Availability:
    """A revision, its presence on the hub (or in the folder), and its listed native directory (empty if none is listed)."""

    revision: Revision
    hub: bool
    native_url: str = ""


def revision_key(revision: Revision) -> Key | None:
    """Stage, ingredient and step, as `ListedRow.key`; None if the name has no step, or tells a seed or a side branch."""
    if revision.step is None or revision.branch or revision.prefix or revision.seed:
        return None
    return revision.stage or 1, revision.ingredient, revision.step


def join_lists(
    revisions: Sequence[Revision], lists: Sequence[OfficialList], run: KnownRun | None = None
) -> list[Availability]:
    """Every revision of the source with its native directory, and every listed step that the source lacks.

    Rows that point to another step's directory are left out, since its contents are not those that the row names. So are rows
    of another run's directories, if the run is known.
    """
    listed = trusted_rows(lists, run)
    found = []
    for revision in revisions:
        key = revision_key(revision)
        row = listed.pop(key, None) if key else None
        found.append(Availability(revision, True, row.url if row else ""))
    staged = any(revision.stage for revision in revisions) or bool(run and run.stage(1))
    found += [Availability(_native_revision(row, staged, run), False, row.url) for row in listed.values()]
    placed = with_positions([each.revision for each in found], run)
    found = [replace(each, revision=revision) for each, revision in zip(found, placed, strict=True)]
    return sorted(found, key=lambda each: sort_key(each.revision))


def trusted_rows(lists: Sequence[OfficialList], run: KnownRun | None = None) -> dict[Key, ListedRow]:
    """The first row of each key that points to its own step, in one of the run's own stores if those are known."""
    found: dict[Key, ListedRow] = {}
    for row in (row for listed in lists for row in listed.rows):
        ours = run is None or not run.native or run.owns(row.url)
        if ours and row.matches_its_directory:
            found.setdefault(row.key, row)
    return found


def _native_revision(row: ListedRow, staged: bool, run: KnownRun | None) -> Revision:
    """The revision that a row stands for, by the name that the source would have given it."""
    row = replace(row, stage=row.stage or (1 if staged else None))
    revision = Revision(row.name, stage=row.stage, ingredient=row.ingredient, step=row.step, format=row.format)
    return replace(revision, tokens=run.tokens_at(revision)) if run and not row.merged else revision
