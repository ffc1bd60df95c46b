"""A forest of runs as a tree: each fork below its parent, with the step where it begins and what it changes.

>>> frame = pl.DataFrame({"run": ["a", "b"], "parent": [None, "a"], "forked_at": [None, 40], "overrides": ["", "lr 0.1"],
...                       "first_step": [0, 41], "last_step": [80, 60], "checkpoints": [3, 2]})
>>> tree(frame)
[(0, 'a', 'step 0 to 80, 3 checkpoints'), (1, 'b', 'from step 40, lr 0.1; step 41 to 60, 2 checkpoints')]
"""

from __future__ import annotations

from typing import Any

import polars as pl

from olmo_dynamics.errors import counted
from olmo_dynamics.quantities.as_html import Html, shown, table

Branch = tuple[int, str, str]
"""The depth of a run in its tree, its name, and a sentence on it."""


class ShownForest:
    """The displays of a forest, made of its table `runs`."""

    @property
    def runs(self) -> pl.DataFrame:
        """One row per run; see `Forest.runs`."""
        raise NotImplementedError

    def __str__(self) -> str:
        """The tree as lines of text."""
        return "\n".join([_title(self.runs), *(f"  {'   ' * depth}{_name(depth, name)}  {told}"
                                               for depth, name, told in tree(self.runs))])  # fmt: skip

    def _repr_html_(self) -> Html:
        """The tree as HTML."""
        rows = [(f"{chr(160) * 4 * depth}{_name(depth, name)}", told) for depth, name, told in tree(self.runs)]
        return shown(_title(self.runs), {}, table(("run", ""), rows))

    def __repr__(self) -> str:
        """The names of its runs."""
        return f"Forest({', '.join(self.runs['run'])})"


def tree(runs: pl.DataFrame) -> list[Branch]:
    """The runs of a forest, each followed by its forks."""
    rows = {row["run"]: row for row in runs.iter_rows(named=True)}
    found: list[Branch] = []

    def add(name: str, depth: int) -> None:
        found.append((depth, name, _told(rows[name])))
        for other, row in rows.items():
            if row["parent"] == name and other != name:
                add(other, depth + 1)

    for name, row in rows.items():
        if row["parent"] not in rows or row["parent"] == name:
            add(name, 0)
    return found


def _told(row: dict[str, Any]) -> str:
    reach = f"step {row['first_step']:,} to {row['last_step']:,}, {counted(row['checkpoints'], 'checkpoint')}"
    if row["parent"] is None:
        return reach
    return f"from step {row['forked_at']:,}, {row['overrides'] or 'unchanged'}; {reach}"


def _title(runs: pl.DataFrame) -> str:
    return f"Forest of {counted(len(runs), 'run')}"


def _name(depth: int, name: str) -> str:
    return f"└ {name}" if depth else name
