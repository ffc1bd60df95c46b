"""Sections of the group `evaluation`: scores of tasks, and the loss against each.

>>> [section.title for section in evaluations(Drawn(open_store("run.zarr")))]  # doctest: +SKIP
['Scores of tasks', 'Loss and the scores of tasks']
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.frames import beside_score, macro_average
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sentences import Told

_SCORES = Caption(
    "An answer is right if the model finds it likelier than the others. Accuracy stays near chance for long and then rises; the "
    "bits per byte of the right answer move from the first steps on. A few dozen items give a standard error of several percent.",
)
_RELATION = Caption(
    "Each dot is a revision, coloured by its place in training. A rank correlation near 1 says that both fall together. Both "
    "follow the training, so the interval is wide where there are few revisions, and no cause is shown.",
)


def evaluations(store: Drawn) -> Iterator[Section]:
    """The scores of every task, and for each the loss against its bits per byte."""
    table = store.table("evaluation")
    make = partial(store.draw, plots.task_scores, table, told=Told("accuracy", "accuracy"))
    yield store.section("Scores of tasks", make, _SCORES.of(find("evaluation/accuracy")))
    if "loss" not in store.groups or not store.has_steps:
        return
    losses = store.table("loss")
    whole = macro_average(losses) if losses["domain"].n_unique() > 1 else losses
    for task in table["task"].unique(maintain_order=True):
        pairs = beside_score(whole, "cross_entropy", table, task=task, metric="bits_per_byte")
        if pairs.filter(pl.col("score").is_finite()).height > 1:
            relation = partial(store.draw, plots.score_relation, pairs, "cross_entropy", probe=True)
            yield store.section(
                f"Loss and bits per byte of {task}", relation, _RELATION.of(find("evaluation/bits_per_byte"))
            )
