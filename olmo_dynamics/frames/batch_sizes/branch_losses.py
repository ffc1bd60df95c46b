"""The losses of branches that continue one revision at several batch sizes, as a table on disk.

    >>> table = BranchTable("cbs")  # doctest: +SKIP
    >>> table.add(branch, folder="cbs/step100/k2")  # doctest: +SKIP

The loss of a branch is that of held-out files at its end, or else an exponential moving average of its batches' losses with
α = 0.5: s ← (s + loss) / 2, as in arXiv:2505.23971.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.curves import metrics
from olmo_dynamics.frames.table_files import write_frame

FILE = "branches.parquet"
ALPHA = 0.5
HELD_OUT, SMOOTHED = "held-out", "training, smoothed"
"""The kinds of losses that branches are compared by."""

Branches = pl.DataFrame
"""The table of `od.critical_batch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One branch: the revision that it continues, with its place in training, its batch and its budget."""

    revision: str
    step: int
    tokens: int | None
    multiplier: float  # of the parent's batch
    sequences: int
    sequence_length: int
    updates: int

    @property
    def batch_tokens(self) -> int:
        """Tokens of one update."""
        return self.sequences * self.sequence_length


class BranchTable:
    """The table of branches in a folder: one row per revision and multiplier, written anew with each branch."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE
        self._rows: list[dict[str, object]] = []

    @property
    def frame(self) -> Branches:
        """The rows so far."""
        known = {"tokens": pl.Int64, "held_out_loss": pl.Float64}
        return pl.DataFrame(self._rows, schema_overrides=known, infer_schema_length=None)

    def add(self, branch: Branch, folder: Path) -> None:
        """Add the row of a branch that was trained into `folder`, and write the table.

        Raises:
            OptionError: the folder has no metrics, or not those of all updates.
        """
        self._rows.append(branch_row(branch, metrics(folder)) | {"folder": str(folder)})
        write_frame(self.frame, self.path)


def branch_row(branch: Branch, curve: pl.DataFrame) -> dict[str, object]:
    """The row of a branch, from its metrics: one row per update, and one at its beginning if held-out files were read.

    Raises:
        OptionError: updates are missing.
    """
    updates = curve.filter(pl.col("loss").is_not_null(), pl.col("step") > branch.step).sort("step")
    if updates.height != branch.updates:
        raise OptionError(
            f"the branch of {branch.revision} with {branch.sequences} sequences must have {branch.updates} updates "
            f"(got {updates.height}); delete its folder to train it again"
        )
    held_out = [name for name in curve.columns if name.startswith("eval/")]
    last = curve.sort("step").tail(1)
    of_files = [float(last[name][0]) for name in held_out if last[name][0] is not None]
    smoothed = smoothed_loss(updates["loss"].to_list())
    mean = sum(of_files) / len(of_files) if of_files else None
    return asdict(branch) | {
        "batch_tokens": branch.batch_tokens,
        "branch_tokens": branch.updates * branch.batch_tokens,
        "learning_rate": float(updates["learning_rate"][0]),
        "training_loss": smoothed,
        "held_out_loss": mean,
        "loss": smoothed if mean is None else mean,
        "loss_kind": SMOOTHED if mean is None else HELD_OUT,
    }


def smoothed_loss(losses: list[float], alpha: float = ALPHA) -> float:
    """The last value of the exponential moving average s ← (1 - α) s + α loss, which begins with the first loss.

    >>> smoothed_loss([4.0, 2.0, 3.0])
    3.0
    """
    value = losses[0]
    for loss in losses[1:]:
        value = (1 - alpha) * value + alpha * loss
    return value
