"""Differences of forks to the unchanged run."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.fork_differences import fork_differences, fork_names
from olmo_dynamics.frames.lineage import Forest, Line

PARENTS = {"hot": "run", "same": "run", "late": "run"}


class Known(Forest):
    """A forest whose metrics and parents are given here."""

    parents = PARENTS  # type: ignore[assignment]

    def metrics(self) -> pl.DataFrame:
        steps = {"run": range(1, 13), "hot": range(5, 13), "same": range(5, 13), "late": range(20, 24)}
        level = {"run": 3.0, "hot": 2.5, "same": 2.9, "late": 2.0}
        parts = [
            pl.DataFrame({"run": run, "step": list(at), "tokens": [10 * step for step in at], "loss": level[run]})
            for run, at in steps.items()
        ]
        return pl.concat(parts).with_columns(pl.lit(PARENTS.get("")).alias("parent"))


def line(start: int, **overrides: object) -> Line:
    return Line(Path("x"), (start, start + 8), {"parent": {"source": "run", "step": start}, "overrides": overrides})


FOREST = Known(
    {
        "run": Line(Path("run"), (1, 12), {}),
        "hot": line(4, learning_rate=0.01),
        "same": line(4),
        "late": line(12, seed=3),
    }
)


def test_a_changed_fork_is_less_the_unchanged_one_and_that_less_the_parent() -> None:
    found = fork_differences(FOREST, "loss")
    assert fork_names(FOREST) == {"hot": "learning_rate 0.01", "same": "unchanged", "late": "seed 3"}
    told = found.select("fork", "against", pl.col("difference").round(6)).unique(maintain_order=True)
    assert told.rows() == [("learning_rate 0.01", "same", -0.4), ("unchanged", "run", -0.1)]
    assert found.filter(run="hot")["step"].to_list() == list(range(5, 13))
    assert found["smoothed"].to_list() == pytest.approx(found["difference"].to_list())


def test_forks_without_a_step_in_common_are_refused() -> None:
    alone = Known({"run": Line(Path("run"), (1, 12), {}), "late": line(12, seed=3)})
    alone.__dict__["parents"] = {"late": "run"}
    with pytest.raises(OptionError, match=r"^a difference needs steps that a fork and an unchanged run have in common"):
        fork_differences(alone, "loss")
    message = "the metrics must have a column 'gradient_norm' (got run, step, tokens, loss, parent)"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        fork_differences(FOREST, "gradient_norm")
