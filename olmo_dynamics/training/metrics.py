"""The training curve as a table on disk: one row an update, rewritten whole and atomically at each save.

A resumed run keeps the rows up to the step it resumes from, so the table is the same as if it had never stopped.

    >>> metrics = Metrics.load(Path("run/metrics.csv"), save_at=recipe.save_at, step=state.step)
    >>> train(state, recipe, tokens, callbacks=[metrics, checkpoint_writer])  # in this order, see `Metrics`
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from pathlib import Path

from olmo_dynamics.training.trainer import Event

COLUMNS = ("step", "tokens", "loss", "gradient_norm", "learning_rate", "seconds")


@dataclass
class Metrics:
    """A callback of `train` that collects a row an update, and writes them all at each step of `save_at`.

    Call it before whatever writes the checkpoint: rows too many are dropped on resuming, rows too few would be lost.
    `seconds` is training time since step 0, pauses left out.
    """

    path: Path
    save_at: tuple[int, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = time.perf_counter() - (float(self.rows[-1][-1]) if self.rows else 0.0)

    @classmethod
    def load(cls, path: Path, *, save_at: tuple[int, ...], step: int) -> Metrics:
        """The table at `path` up to `step`; empty where there is none."""
        if not path.exists():
            return cls(path, save_at)
        with path.open(newline="", encoding="utf-8") as file:
            rows = [tuple(row) for row in csv.reader(file)][1:]
        return cls(path, save_at, [row for row in rows if int(row[0]) <= step])

    def __call__(self, event: Event) -> None:
        """Note one update."""
        seconds = f"{time.perf_counter() - self._began:.3f}"
        numbers = (event.step, event.tokens_seen, event.loss, event.gradient_norm, event.learning_rate)
        self.rows.append((*map(repr, numbers), seconds))
        if event.step in self.save_at:
            self.save()

    def save(self) -> None:
        """Write the table under a temporary name, then rename it."""
        temporary = self.path.with_name(f".{self.path.name}.partial")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self.rows)
        temporary.replace(self.path)
