"""Positions of post-training and of re-runs among joined runs: repos that hold one training stand on one axis.

>>> with_phases(columns, joined.runs)["phase"]  # doctest: +SKIP
array(['', '', 'SFT', 'SFT'], dtype='<U3')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from olmo_dynamics.checkpoints.catalog.known_runs import known_run
from olmo_dynamics.checkpoints.catalog.training_phases import PlacedRevision, order_trainings, phase_of
from olmo_dynamics.frames.joining.joined_run import JoinedRun

_PLACES = ("tokens", "position_step", "position_tokens")


def with_phases(columns: Mapping[str, np.ndarray], runs: Sequence[JoinedRun]) -> dict[str, np.ndarray]:
    """The facts about revisions with positions that count from the beginning of the whole training, and their phases.

    `phase` is that of post-training, or `re-run`; `phase_number` counts the repos between the run and the one in which its
    training begins; `starts_from` is the run that the phase starts from, or its repo if that is not joined. A repo follows
    another only if the known runs say so. Without such a repo the columns are as given.
    """
    if not any(_is_part(run.source) for run in runs):
        return dict(columns)
    found = _placed(runs)
    rows, placed = columns["revision"].tolist(), dict(columns)
    for name in _PLACES:
        own = columns[name].tolist()
        moved = [
            getattr(found[row].revision, name) if row in found else value for row, value in zip(rows, own, strict=True)
        ]
        placed[name] = np.array([-1 if value is None else value for value in moved], dtype=np.int64)
    names = {run.source.casefold(): run.name for run in runs}
    parents = [found[row].parent if row in found else "" for row in rows]
    placed["phase"] = np.array([found[row].phase if row in found else "" for row in rows], dtype=np.str_)
    placed["phase_number"] = np.array([found[row].part if row in found else 0 for row in rows], dtype=np.int64)
    placed["starts_from"] = np.array([names.get(repo.casefold(), repo) for repo in parents], dtype=np.str_)
    return placed


def _placed(runs: Sequence[JoinedRun]) -> dict[str, PlacedRevision]:
    """Each finished revision, by its joined name, in the training that some of the runs make together."""
    named = {run.source: run for run in runs}
    pairs = [(run.source, each) for run in runs for each in run.store.revisions()]
    return {named[each.repo].joined(each.revision.name): each for each in order_trainings(pairs)}


def _is_part(source: str) -> bool:
    """True for a repo of post-training, or of a re-run."""
    run = known_run(source)
    return phase_of(source) is not None or bool(run and run.rerun_of)
