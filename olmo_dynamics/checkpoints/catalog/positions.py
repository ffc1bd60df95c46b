"""Positions: steps and tokens counted from the beginning of the whole training, through all its stages.

>>> from olmo_dynamics.checkpoints import known_run, parse_revision
>>> names = ["stage2-ingredient3-step1000-tokens3B"]
>>> found = in_training_order(map(parse_revision, names), known_run("allenai/OLMo-2-0425-1B"))
>>> found[0].step, found[0].position_step, found[0].position_tokens
(1000, 1908359, 4002118893568)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from olmo_dynamics.checkpoints.catalog.known_runs import KnownRun, known_run
from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision, sort_key
from olmo_dynamics.names import Revision

Offset = tuple[int | None, int | None]
"""Steps and tokens of the stages before; None where they are not known."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The checkpoint from which a run was forked: its source, and its line of training."""

    source: str
    line: str

    @classmethod
    def of(cls, source: str, revision: str) -> Origin:
        """The origin of a fork of that revision."""
        return cls(source, parse_revision(revision).line)


BEGINNING: Offset = (0, 0)
UNKNOWN: Offset = (None, None)


def in_training_order(revisions: Iterable[Revision], run: KnownRun | None = None) -> list[Revision]:
    """All revisions of a source, sorted, with their tokens and positions.

    Args:
        revisions: the full listing: the last step of each stage in it is where the next stage begins, unless `run` tells.
        run: the facts of the run, if it is a known one.
    """
    listed = [replace(each, tokens=run.tokens_at(each)) if run else each for each in revisions]
    return sorted(with_positions(listed, run), key=sort_key)


def of_fork(revisions: Iterable[Revision], origin: Origin | None) -> list[Revision]:
    """All revisions of a run that is a fork, or of a run without a known origin, sorted, with their lines and positions."""
    found = [replace(each, forked_from=origin.line if origin else None) for each in revisions]
    return sorted(with_positions(found, known_run(origin.source) if origin else None), key=sort_key)


def with_positions(revisions: Sequence[Revision], run: KnownRun | None = None, *, whole: bool = True) -> list[Revision]:
    """The same revisions with `position_step` and `position_tokens`.

    Without `whole` the revisions are a part of the listing, so the last step of a stage is taken from `run` alone.
    """
    offsets: dict[tuple[int, str | None, str], Offset] = {}

    def offset(stage: int, seed: str | None, branch: str) -> Offset:
        if stage <= 1:
            return BEGINNING
        if (stage, seed, branch) not in offsets:
            listed = _listed_end(stage - 1, seed, branch, revisions) if whole else UNKNOWN
            offsets[stage, seed, branch] = added_offset(
                offset(stage - 1, seed, branch), _known_end(stage, run) or listed
            )
        return offsets[stage, seed, branch]

    return [
        _at(each, UNKNOWN if _begins_elsewhere(each) else offset(_stage(each), each.seed, each.branch))
        for each in revisions
    ]


def _begins_elsewhere(revision: Revision) -> bool:
    """True for a side branch that began at another checkpoint than the last of the stage before: `mix-from-2T-ckpt`."""
    return "from" in re.split(r"[-_=./\s]+", revision.branch.lower())


def _stage(revision: Revision) -> int:
    """The stage of a revision, or that of its parent; names without a stage belong to the first."""
    return revision.stage or parse_revision((revision.forked_from or "").partition("/")[0]).stage or 1


def _known_end(stage: int, run: KnownRun | None) -> Offset | None:
    """Steps and tokens of the stage before this one, by the facts of the run."""
    before, here = (run.stage(stage - 1), run.stage(stage)) if run else (None, None)
    steps = here.start if here and here.start is not None else before.steps if before else None
    return (steps, steps * before.tokens_per_step) if before and steps is not None else None


def _listed_end(stage: int, seed: str | None, branch: str, revisions: Sequence[Revision]) -> Offset:
    """Steps and tokens of the last revision of a stage; of the same branch and seed if the stage has them."""
    there = [each for each in revisions if _stage(each) == stage and each.step is not None]
    there = [each for each in there if each.branch == branch] or [each for each in there if not each.branch]
    own = [each for each in there if each.seed == seed] or there
    last = max(own, key=lambda each: (each.step or 0, each.tokens or 0), default=None)
    return (last.step, last.tokens) if last else UNKNOWN


def added_offset(one: Offset, other: Offset) -> Offset:
    """The sum of two offsets, None where either is not known."""
    steps, tokens = (_added(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    return steps, tokens


def _at(revision: Revision, offset: Offset) -> Revision:
    steps, tokens = offset
    return replace(
        revision, position_step=_added(revision.step, steps), position_tokens=_added(revision.tokens, tokens)
    )


def _added(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
