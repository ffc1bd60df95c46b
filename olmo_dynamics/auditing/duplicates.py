"""Checks for repeated bytes: revisions that are the same in all files, or in some of several.

Two steps of one training cannot have the same weights, so every name that claims a step is suspected, but for two owners: the
revision that is known to be in `main`, and the last step of the run where it shares its bytes with `main`. A file that is the
same at every revision of a line, three at least, holds weights that are not trained.

>>> from olmo_dynamics.auditing.evidence import FileFacts, RevisionFiles
>>> from olmo_dynamics.checkpoints import parse_revision
>>> revisions, files = [*map(parse_revision, ("step1", "step2"))], {"model.safetensors": FileFacts(8, "a1b2c3")}
>>> listings = {revision.name: RevisionFiles(revision, files) for revision in revisions}
>>> [finding.line for finding in find_duplicates(Evidence("run", tuple(revisions), listings=listings))]
['duplicate: 2 names, the same bytes (sha256 a1b2c3) (expected different weights at different steps)']
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from olmo_dynamics.auditing.evidence import Evidence
from olmo_dynamics.auditing.findings import Finding, Severity, some
from olmo_dynamics.names import Revision

FROZEN_FROM = 3
"""Fewest revisions of a line whose equal weights are called frozen; of two, one may as well be the other's copy."""

_EXPECTED = "different weights at different steps"


def find_duplicates(evidence: Evidence) -> list[Finding]:
    """Revisions whose weights are the same bytes, in every file, or in some of several."""
    whole: dict[Hashable, list[str]] = defaultdict(list)
    shard: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, listing in evidence.listings.items():
        hashes = {file: facts.id for file, facts in listing.weights.items()}
        if hashes:
            whole[tuple(sorted(hashes.values()))].append(name)
        for file, digest in hashes.items() if len(hashes) > 1 else ():
            shard[file, digest].append(name)
    alike = [names for names in whole.values() if len(names) > 1]
    reported = {frozenset(names) for names in alike}
    shared = list(_shared_files(shard, reported, evidence))
    return [*(_same_bytes(names, evidence) for names in alike), *shared, *_all_files(shared, evidence)]


def places(names: Iterable[str], revisions: Iterable[Revision]) -> list[Revision]:
    """The revisions among `names` that claim different places in training.

    `main` and other names without a step claim none; nor does step 0 of a later stage, which is the end of the one before.
    Seeds may share step 0, as a seed of the data order leaves the first weights alone.
    """
    by_name = {revision.name: revision for revision in revisions}
    found: dict[Hashable, Revision] = {}
    for revision in (by_name[name] for name in names):
        if revision.step is None or (revision.step == 0 and (revision.stage or 0) > 1):
            continue
        seed = revision.seed if revision.step else None
        place = (revision.stage, revision.ingredient, seed, revision.prefix, revision.branch, revision.step)
        found.setdefault(place, revision)
    return list(found.values())


def suspects(names: Sequence[str], revisions: Sequence[Revision], known_main: str = "") -> tuple[str, ...]:
    """The names among those of the same bytes that claim a step which these bytes need not be of."""
    owners = {known_main or _last_step(revisions)} if "main" in names else set()
    claims = {each.name for each in places(names, revisions)}
    return tuple(name for name in names if name in claims and name not in owners)


def _last_step(revisions: Sequence[Revision]) -> str:
    """The name of the last step of the last stage; empty where several lines end with it."""
    steps = [each for each in revisions if each.step is not None and not each.branch]
    end = max(((each.stage or 0, each.step or 0) for each in steps), default=None)
    last = [each.name for each in steps if (each.stage or 0, each.step) == end]
    return last[0] if len(last) == 1 else ""


def frozen_lines(names: Iterable[str], held: Sequence[Revision]) -> set[str]:
    """The lines of training all of whose revisions, three at least, are among `names`: their weights are not trained."""
    named = set(names)
    lines: dict[str, list[Revision]] = defaultdict(list)
    for each in held:
        if each.step is not None:
            lines[each.line].append(each)
    return {
        line
        for line, members in lines.items()
        if len(places([each.name for each in members], members)) >= FROZEN_FROM
        and all(each.name in named for each in members)
    }


def _same_bytes(names: list[str], evidence: Evidence) -> Finding:
    hashes = sorted({facts.id for facts in evidence.listings[names[0]].weights.values()})
    found = f"{len(names)} names, the same bytes (sha256 {hashes[0][:12]}{'…' if len(hashes) > 1 else ''})"
    if len(places(names, evidence.revisions)) < 2:
        return Finding("duplicate", Severity.NOTE, tuple(names), "", found)
    return Finding("duplicate", Severity.WRONG, tuple(names), _EXPECTED, found, quarantine=_suspects(names, evidence))


def _suspects(names: Sequence[str], evidence: Evidence) -> tuple[str, ...]:
    return suspects(names, evidence.revisions, evidence.run.main_revision if evidence.run else "")


def _shared_files(
    shard: Mapping[tuple[str, str], list[str]], reported: set[frozenset[str]], evidence: Evidence
) -> Iterator[Finding]:
    """Files that revisions share although the rest of their weights differ."""
    sharing: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (file, _), names in shard.items():
        if len(places(names, evidence.revisions)) > 1 and not any(set(names) <= group for group in reported):
            sharing[tuple(names)].append(file)
    for sharers, files in sharing.items():
        files.sort()
        held = [listing.revision for listing in evidence.listings.values() if files[0] in listing.weights]
        frozen = frozen_lines(sharers, held)
        trained = tuple(each.name for each in held if each.name in sharers and each.line not in frozen)
        same = f"the same bytes in {some(files)}"
        if frozen:
            still = tuple(name for name in sharers if name not in trained)
            yield Finding("duplicate", Severity.NOTE, still, "", f"{same} at every revision: not trained")
        if len(places(trained, held)) > 1:
            yield Finding("duplicate", Severity.DOUBTFUL, trained, _EXPECTED, f"{same}, though not in all files",
                          quarantine=_suspects(trained, evidence), files=tuple(files))  # fmt: skip


def _all_files(shared: Sequence[Finding], evidence: Evidence) -> Iterator[Finding]:
    """Revisions of which every file is suspected, each for itself: nothing of them can be measured."""
    files: dict[str, set[str]] = defaultdict(set)
    for finding in shared:
        for name in finding.quarantine:
            files[name].update(finding.files)
    names = tuple(name for name, found in files.items() if found >= set(evidence.listings[name].weights))
    if names:
        yield Finding("duplicate", Severity.WRONG, names, "files of its own", "every file is also another revision's",
                      quarantine=names)  # fmt: skip
