"""The loss on held-out tokens during training: at the fork, every so many steps after it, and at the end.

`evaluation.csv` beside the checkpoints has one row per file and evaluation; a resumed fork keeps the rows up to its step.

    >>> evaluator = Evaluator(path, {"c4.npy": files}, recipe=recipe, every=100, begin=40)          # doctest: +SKIP
    >>> train(state, recipe, batches, callbacks=[evaluator, writer]); evaluator.last                # doctest: +SKIP
    {'c4.npy': 3.127}
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.files import write_atomic, write_errors_named
from olmo_dynamics.model import LanguageModel
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.distributed import gather_model, rank
from olmo_dynamics.training.objective import evaluate
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState
from olmo_dynamics.training.trainer import Event

COLUMNS = ("step", "tokens", "file", "loss")
TABLE = "evaluation.csv"
_SEQUENCES = 8  # per forward pass


@dataclass
class Evaluator:
    """A callback of `train`, to be called before checkpoints are written; `last` has the latest losses by file.

    A loss is the mean cross-entropy in nats of all labels of the file's instances, in the order of the file.
    """

    path: Path
    files: Mapping[str, TokenFiles]
    recipe: Recipe
    every: int
    begin: int  # the step of the fork, from which `every` counts
    rows: list[tuple[str, ...]] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)

    def resume(self, step: int) -> None:
        """Read the table on disk, up to that step.

        Raises:
            TrainingError: the table is damaged.
        """
        if not self.path.exists():
            return
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                header, *rows = (tuple(row) for row in csv.reader(file))
            self.rows = [row for row in rows if int(row[0]) <= step]
            self.last = {name: float(loss) for _, _, name, loss in self.rows}
        except (ValueError, IndexError, csv.Error):
            header = ()
        if header != COLUMNS:
            raise TrainingError(
                f"{self.path} must be a table of {', '.join(COLUMNS)}, but is damaged: delete it to resume without its losses"
            )

    def __call__(self, event: Event) -> None:
        """Evaluate if its step is due; write the table when a checkpoint is due."""
        if (event.step - self.begin) % self.every == 0 or event.step == self.recipe.steps:
            self.measure(event.state)
        if event.step in self.recipe.save_at:
            self.save()

    def measure(self, state: TrainState) -> dict[str, float]:
        """The losses of the current model; one of several processes evaluates, and all must call this."""
        model = gather_model(state.model) if self.files else None
        if model is None:
            return {}
        self.last = {name: held_out_loss(model, files) for name, files in self.files.items()}
        counters = (str(state.step), str(state.tokens_seen))
        self.rows += [(*counters, name, repr(loss)) for name, loss in self.last.items()]
        return self.last

    def save(self) -> None:
        """Write the table as a whole, or not at all."""
        if rank():
            return
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *self.rows])
        with write_errors_named(self.path):
            write_atomic(self.path, text.getvalue().encode(), partial=self.path.with_name(f".{self.path.name}.partial"))


def held_out_loss(model: LanguageModel, files: TokenFiles) -> float:
    """Mean cross-entropy in float32 compute, nats per label, summed in float64."""
    recipe, total = Recipe(steps=1), 0.0
    for first in range(0, files.count, _SEQUENCES):
        ids = files.read(np.arange(first, min(first + _SEQUENCES, files.count)))
        total += len(ids) * evaluate(model, Batch(torch.from_numpy(ids)), recipe).cross_entropy
    return total / files.count
