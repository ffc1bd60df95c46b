"""Phases of post-training, and the order of several repos that hold one training.

A base model is pretrained in one repo, fine-tuned in a second, and trained by reinforcement in a third; the first steps may be
published once more in a repo of their own. `known_runs.toml` tells where each of these starts.

    >>> from olmo_dynamics.checkpoints import parse_revision
    >>> pairs = [("allenai/Olmo-3-7B-Think-SFT", parse_revision("step1000")),
    ...          ("allenai/Olmo-3-1025-7B", parse_revision("stage1-step2000"))]
    >>> [(each.name, each.phase, each.revision.position_step) for each in order_trainings(pairs)]
    [('allenai/Olmo-3-1025-7B@stage1-step2000', '', 2000), ('allenai/Olmo-3-7B-Think-SFT@step1000', 'SFT', 1474419)]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from olmo_dynamics.checkpoints.catalog.known_runs import KnownRun, known_run
from olmo_dynamics.checkpoints.catalog.positions import UNKNOWN, Offset, added_offset, with_positions
from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision, sort_key
from olmo_dynamics.checkpoints.catalog.run_parts import RERUN, Phase
from olmo_dynamics.names import Revision

Pair = tuple[str, Revision]


@dataclass(frozen=True, slots=True)
class PlacedRevision:
    """A revision of one of several repos, in the training that some of them make together.

    `training` is the repo in which the training begins, `part` the number of repos between the two (0 in that repo, and in a
    re-run of it), `phase` the phase of post-training, `re-run`, or empty, and `parent` the repo that the phase starts from. The
    revision's position counts from the beginning of the whole training; None where it is not known.
    """

    repo: str
    revision: Revision
    training: str
    part: int = 0
    phase: str = ""
    parent: str = ""

    @property
    def name(self) -> str:
        """The repo and the revision: `REPO@REVISION`."""
        return f"{self.repo}@{self.revision.name}"

    @property
    def is_after_border(self) -> bool:
        """True in post-training without a known position in tokens: it is drawn by its own steps, after a border."""
        return self.part > 0 and self.revision.position_tokens is None


def order_trainings(pairs: Iterable[Pair]) -> list[PlacedRevision]:
    """Revisions of several repos in the order of training: in each training the base first, then all that starts from it.

    A repo follows another only if `known_runs.toml` says so; any other repo is a training of its own. A re-run of the first
    steps is before the run that it repeats. Trainings are in the order in which their first repo is given. A position that a
    source gave is kept; without one it is taken from the facts of the run.
    """
    by_repo: dict[str, list[Revision]] = {}
    for repo, revision in pairs:
        by_repo.setdefault(repo, []).append(revision)
    placed = {repo: _placed(repo, revisions, by_repo) for repo, revisions in by_repo.items()}
    first = {each[0].training.casefold(): place for place, each in reversed(list(enumerate(placed.values())))}

    def key(repo: str) -> tuple[int, int, bool]:
        leading = placed[repo][0]
        return first[leading.training.casefold()], leading.part, leading.phase != RERUN

    return [each for repo in sorted(placed, key=key) for each in placed[repo]]


def _placed(repo: str, revisions: list[Revision], given: dict[str, list[Revision]]) -> list[PlacedRevision]:
    run, phase = known_run(repo), phase_of(repo)
    own = sorted((_positioned(each, run) for each in revisions), key=sort_key)
    if run is None or (phase is None and not run.phases):
        rerun = run.rerun_of if run else ""
        return [PlacedRevision(repo, each, rerun or repo, phase=RERUN if rerun else "") for each in own]
    base, part = (repo, 0) if phase is None else _root(phase)
    offset = UNKNOWN if phase is None else _reached(phase, given)
    name, parent = (phase.name, phase.origin[0]) if phase else ("", "")
    return [PlacedRevision(repo, _moved(each, offset), base, part, name, parent) for each in own]


def _positioned(revision: Revision, run: KnownRun | None) -> Revision:
    """A revision with the position that its source gave it, else with that which the run's facts tell."""
    if revision.position_step is not None:
        return revision
    known = replace(revision, tokens=run.tokens_at(revision)) if run else revision
    return with_positions([known], run, whole=False)[0]


def phase_of(repo: str) -> Phase | None:
    """The phase of post-training that a repo holds, None if it holds none or its start is not known."""
    run = known_run(repo)
    found = run.phases if run else ()
    return next((each for each in found if each.repo.casefold() == repo.casefold()), None)


def _root(phase: Phase) -> tuple[str, int]:
    """The repo in which the training of a phase begins, and the number of repos from there to the phase's own."""
    parent, _ = phase.origin
    before = phase_of(parent)
    base, part = _root(before) if before else (parent, 0)
    return base, part + 1


def _reached(phase: Phase, given: dict[str, list[Revision]]) -> Offset:
    """Steps and tokens of the whole training at the revision that a phase starts from."""
    parent, name = phase.origin
    run, before = known_run(parent), phase_of(parent)
    if run and name == "main" and not before:
        name = run.main_revision or name
    listed = next((revisions for repo, revisions in given.items() if repo.casefold() == parent.casefold()), [])
    start = _positioned(next((each for each in listed if each.name == name), parse_revision(name)), run)
    if before:
        return added_offset(_reached(before, given), (start.step, start.tokens))
    return start.position_step, start.position_tokens


def _moved(revision: Revision, offset: Offset) -> Revision:
    steps, tokens = added_offset(offset, (revision.step, revision.tokens))
    return replace(revision, position_step=steps, position_tokens=tokens)
