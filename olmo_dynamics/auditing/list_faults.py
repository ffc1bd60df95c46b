"""Checks of official lists, from the lists alone and from the known facts of the runs.

>>> from olmo_dynamics.checkpoints.catalog.official_lists import parse_list
>>> listed = parse_list("Step,Checkpoint Directory\\n5,https://a.example/step6/\\n", "a.csv")
>>> [finding.line for finding in find_list_faults(Evidence("org/name", (), lists=(listed,)))]
['list: a.csv: line 2 points to https://a.example/step6/ (expected step5)']
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby

from olmo_dynamics.auditing.cadence import find_cadence
from olmo_dynamics.auditing.evidence import Evidence
from olmo_dynamics.auditing.findings import Finding, Severity, some
from olmo_dynamics.auditing.name_checks import cadence_findings
from olmo_dynamics.auditing.token_column import find_token_faults
from olmo_dynamics.checkpoints import KnownRun, known_runs
from olmo_dynamics.checkpoints.catalog.availability import revision_key, trusted_rows
from olmo_dynamics.checkpoints.catalog.official_lists import ListedRow, OfficialList
from olmo_dynamics.errors import counted


def find_list_faults(evidence: Evidence) -> list[Finding]:
    """Faults of each list, and differences between the lists and the repo."""
    found = []
    for listed in evidence.lists:
        found += [
            _finding(listed, Severity.DOUBTFUL, (f"line {fault.line}",), "", fault.what) for fault in listed.faults
        ]
        found += _wrong_run(listed, evidence.run)
        found += _repeated(listed)
        found += _wrong_directory(listed)
        found += _interleaved(listed)
        found += _odd_labels(listed)
        found += _odd_formats(listed)
        found += _list_cadence(listed)
        if evidence.run and not _foreign(listed, evidence.run):
            found += find_token_faults(listed, evidence.run)
            found += _beyond_the_fork(listed, evidence.run)
            found += _without_the_fork(listed, evidence.run)
    return found + find_unavailable(evidence)


def _finding(listed: OfficialList, severity: Severity, rows: Sequence[str], expected: str, found: str) -> Finding:
    return Finding("list", severity, tuple(rows), expected, found, place=listed.name)


def owner_of(listed: OfficialList) -> KnownRun | None:
    """The run into whose store more than half of the rows point, None unless exactly one is known."""
    owners = [run for run in known_runs() if listed.share_of(run) > 0.5]
    return owners[0] if len(owners) == 1 else None


def _foreign(listed: OfficialList, run: KnownRun) -> bool:
    return bool(run.native) and bool(listed.rows) and listed.share_of(run) < 0.5


def _wrong_run(listed: OfficialList, run: KnownRun | None) -> list[Finding]:
    """A list whose rows point into another run's store than its name, or the audited repo, implies."""
    named = next((each for each in known_runs() if _is_named(listed, each)), None)
    expected, owner = named or run, owner_of(listed)
    if expected is None or owner is None or not expected.native or not _foreign(listed, expected):
        return []
    count = sum(owner.owns(row.url) for row in listed.rows)
    found = f"{count} of {len(listed.rows)} rows point to {owner.title}"
    return [_finding(listed, Severity.WRONG, (), f"directories of {expected.title}", found)]


def _is_named(listed: OfficialList, run: KnownRun) -> bool:
    return listed.name.casefold() in (name.casefold() for name in run.lists)


def _repeated(listed: OfficialList) -> list[Finding]:
    """Rows that name one step twice, in one directory or in two."""
    rows: dict[tuple[object, ...], list[ListedRow]] = defaultdict(list)
    for row in listed.rows:
        rows[(*row.key, row.label)].append(row)
    twice = [group for group in rows.values() if len(group) > 1]
    same = [group[0].name for group in twice if len({row.url for row in group}) == 1]
    found = (
        [_finding(listed, Severity.NOTE, same, "one row per step", "the same step and directory twice")] if same else []
    )
    for group in twice:
        urls = list(dict.fromkeys(row.url for row in group))
        if len(urls) > 1:
            found.append(
                _finding(listed, Severity.DOUBTFUL, [group[0].name], "one directory per step", " and ".join(urls))
            )
    return found


def _wrong_directory(listed: OfficialList) -> list[Finding]:
    """Rows whose directory is that of another step or ingredient."""
    return [
        _finding(listed, Severity.WRONG, (row.name,), row.name, f"line {row.line} points to {row.url}")
        for row in listed.rows
        if not row.matches_its_directory
    ]


def _interleaved(listed: OfficialList) -> list[Finding]:
    """Restarts whose steps are among those of another: one of the two trained differently."""
    found = []
    for rows in _by_part(listed).values():
        ordered = sorted((row for row in rows if row.matches_its_directory), key=lambda row: (row.step, row.line))
        blocks = [key for key, _ in groupby(row.run_directory for row in ordered)]
        for restart in [name for name, count in Counter(blocks).items() if count > 1]:
            first, last = blocks.index(restart), len(blocks) - 1 - blocks[::-1].index(restart)
            inside = [_last_word(name) for name in dict.fromkeys(blocks[first:last]) if name != restart]
            steps = [row.step for row in ordered if row.run_directory == restart]
            text = f"rows of {_last_word(restart)} interleave with those of {some(inside)}"
            span = (f"step{steps[0]}..{steps[-1]}",)
            found.append(_finding(listed, Severity.NOTE, span, "one restart after another", text))
    return found


def _last_word(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2]


def _odd_labels(listed: OfficialList) -> list[Finding]:
    """Stage labels spelt unlike the others of the same list, such as `stage_3_longcontext` beside `stage2_midtraining`."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for label in dict.fromkeys(row.label for row in listed.rows if row.label.startswith("stage")):
        spelt[re.sub("[0-9]", "N", label.split("_")[0])].append(label)
    if len(spelt) < 2:
        return []
    usual = max(spelt, key=lambda form: len(spelt[form]))
    odd = [label for form, labels in spelt.items() if form != usual for label in labels]
    return [_finding(listed, Severity.NOTE, odd, f"labels such as {spelt[usual][0]}", "labels spelt in another way")]


def _odd_formats(listed: OfficialList) -> list[Finding]:
    """Directories of another format than most of the list."""
    formats = Counter(row.format for row in listed.rows)
    if len(formats) < 2:
        return []
    usual = formats.most_common(1)[0][0]
    odd = [row.name for row in listed.rows if row.format != usual]
    return [_finding(listed, Severity.NOTE, odd, f"{usual} directories, as most rows have",
                     f"directories in {' and '.join(sorted(set(formats) - {usual}))} format")]  # fmt: skip


def _by_part(listed: OfficialList) -> dict[tuple[int, str | None], list[ListedRow]]:
    found: dict[tuple[int, str | None], list[ListedRow]] = defaultdict(list)
    for row in listed.rows:
        if not row.merged:
            found[row.key[:2]].append(row)
    return found


def _list_cadence(listed: OfficialList) -> Iterator[Finding]:
    for (stage, ingredient), rows in _by_part(listed).items():
        names = {row.step: row.name for row in rows}
        part = f"stage {stage}{f', ingredient {ingredient}' if ingredient else ''}"
        yield from cadence_findings(find_cadence(list(names)), names, part, place=listed.name)


def _beyond_the_fork(listed: OfficialList, run: KnownRun) -> list[Finding]:
    """Rows of a stage past the step from which the next stage started, which are not on the run's own path."""
    found = []
    for stage in run.stages:
        if stage.start is None:
            continue
        past = [row.name for row in listed.rows
                if row.key[0] == stage.number - 1 and not row.merged and row.step > stage.start]  # fmt: skip
        if past:
            expected = f"nothing past step {stage.start}, from which stage {stage.number} started"
            found.append(_finding(listed, Severity.NOTE, past, expected, f"{counted(len(past), 'row')} past it"))
    return found


def _without_the_fork(listed: OfficialList, run: KnownRun) -> list[Finding]:
    """A stage whose last step, from which the next stage started, is not listed."""
    found = []
    for stage in run.stages:
        steps = {row.step for row in listed.rows if row.key[0] == stage.number - 1}
        if steps and stage.start is not None and stage.start not in steps:
            expected = f"step {stage.start} of stage {stage.number - 1}, from which stage {stage.number} started"
            found.append(_finding(listed, Severity.NOTE, (), expected, f"no such row; the last is step {max(steps)}"))
    return found


def find_unavailable(evidence: Evidence) -> list[Finding]:
    """Listed steps that the repo lacks, and steps of the repo that no list has."""
    if not evidence.lists or not evidence.revisions:
        return []
    listed = trusted_rows(evidence.lists, evidence.run)
    keys = {key: revision.name for revision in evidence.revisions if (key := revision_key(revision))}
    listed_parts = {key[:2] for key in listed}
    native = tuple(row.name for key, row in listed.items() if key not in keys and not row.merged)
    hub = tuple(name for key, name in keys.items() if key not in listed and key[:2] in listed_parts)
    place = ", ".join(each.name for each in evidence.lists)
    found = []
    if native:
        found.append(Finding("availability", Severity.NOTE, native, "a revision for each row",
                             f"listed as native checkpoints only: {counted(len(native), 'step')}", place))  # fmt: skip
    if hub:
        found.append(Finding("availability", Severity.NOTE, hub, "a row for each revision",
                             f"without a row: {counted(len(hub), 'revision')}", place))  # fmt: skip
    return found
