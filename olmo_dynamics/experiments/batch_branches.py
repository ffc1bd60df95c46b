"""The critical batch size by branching: each revision continued at several batch sizes on the same budget of tokens.

    >>> branches = critical_batch("cache/demo/run", "step100-tokens102400", # doctest: +SKIP
    ...                           data=["cache/demo/corpus/train.npy"], out="cbs", tokens=65_536, multipliers=(0.5, 1, 2, 4))
    >>> frames.critical_batch_sizes(branches)  # doctest: +SKIP

Method: Merrill et al. 2025, arXiv:2505.23971. Their budget is 2 billion tokens per branch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.options import parse_batch
from olmo_dynamics.errors import OptionError
from olmo_dynamics.forks import MonitoredForkKeywords, fork
from olmo_dynamics.frames.batch_sizes.branch_losses import Branch, Branches, BranchTable
from olmo_dynamics.frames.run import Run
from olmo_dynamics.names import Revision
from olmo_dynamics.training.fork.run import open_checkpoint
from olmo_dynamics.training.parent.parent import read_parent

MULTIPLIERS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Batch sizes over the parent's."""

_DECIDED = ("batch_lr", "batch_warmup", "eval", "eval_every", "dry_run")
_RATES = {"lr", "peak_lr"}


def critical_batch(
    run: Run | Source | str | Path,
    revisions: str | Collection[str] = "all",
    *,
    data: Sequence[str | Path],
    out: str | Path,
    tokens: int,
    multipliers: Sequence[float] = MULTIPLIERS,
    held_out: Sequence[str | Path] = (),
    **options: Unpack[MonitoredForkKeywords],
) -> Branches:
    """Continue each revision with k times its batch and √k times its learning rate, for `tokens` tokens per branch.

    A branch trains ceil(tokens / (k B T)) updates into `out/REVISION/kK`, with the parent's data order, optimiser state and
    schedule. The same call resumes: finished branches are read, a stopped one continues from its last checkpoint. The table is
    also in `out/branches.parquet`. `frames.critical_batch_sizes` gives the critical size, and `plots.critical_batch` draws it.

    Args:
        run: a hub repo id, a folder of revisions, or a `Run`.
        revisions: a selection expression such as `stage1:log4`, or a list of its terms.
        data: token files or text, as `od.fork` takes them.
        out: a folder for the branches.
        tokens: tokens of each branch; the last update may exceed it.
        multipliers: the batch sizes over the parent's; each must give a whole number of sequences.
        held_out: files whose loss at a branch's end is compared; without them it is the smoothed training loss.
        **options: further options of `od.fork`, such as `schedule="constant"` or `moments`. `batch` is the batch at k = 1,
            and `lr` or `peak_lr` its rate, in place of the parent's; bare weights need both.

    Returns:
        One row per revision and multiplier: `revision`, `step`, `tokens`, `multiplier`, `sequences`, `sequence_length`,
        `updates`, `batch_tokens`, `branch_tokens`, `learning_rate` (of the first update), `training_loss` (smoothed, nats per
        token), `held_out_loss`, `loss` (the one to compare), `loss_kind` and `folder`.

    Raises:
        OptionError: an option is decided here, or a multiplier gives no whole batch.
        SelectionError: the expression cannot be read, or matches nothing.
        TrainingError: a revision cannot be continued.
    """
    decided = next((name for name in _DECIDED if name in options), None)
    if decided:
        raise OptionError(f"critical_batch() decides {decided} itself; leave it out, or fork with od.fork")
    if tokens < 1:
        raise OptionError(f"tokens must be at least 1 (got {tokens})")
    opened, folder = run if isinstance(run, Run) else Run(run), Path(out)
    given: dict[str, Any] = {"save": (), "keep": 1, "data": data, "eval": tuple(map(str, held_out)), **options}
    batch = parse_batch(given.pop("batch", None))
    expression = revisions if isinstance(revisions, str) else ",".join(revisions)
    planned = [
        branch
        for revision in opened.select(expression)
        for branch in _branches(
            opened, revision, tokens, sorted(multipliers), batch, has_rate=bool(_RATES & given.keys())
        )
    ]
    table = BranchTable(folder)
    for branch in planned:
        into = folder / branch.revision / f"k{branch.multiplier:g}"
        fork(opened, branch.revision, out=into, **_fork_options(branch, given))
        table.add(branch, into)
    return table.frame


def _fork_options(branch: Branch, given: dict[str, Any]) -> Any:
    """The options of one branch: a given rate is that of the parent's batch, and scaled here; the parent's own by the fork."""
    scaled = {name: given[name] * math.sqrt(branch.multiplier) for name in _RATES & given.keys()}
    jumps = {} if branch.multiplier == 1 else {"accept_loss_jump": True}  # a smaller batch has a noisier first loss
    return {
        **jumps,
        **given,
        **scaled,
        "steps": branch.updates,
        "batch": (branch.sequences, branch.sequence_length),
        "batch_lr": "keep" if scaled else "sqrt",
        "eval_every": branch.updates,
    }


def _branches(
    run: Run,
    revision: Revision,
    tokens: int,
    multipliers: Sequence[float],
    batch: tuple[int, int] | None,
    *,
    has_rate: bool,
) -> Iterator[Branch]:
    """The branches of one revision; k times the given batch, or the one that its parent would have continued with."""
    with open_checkpoint(run, revision.name) as checkpoint:
        parent = read_parent(checkpoint)
    if parent.recipe is None and not (batch and has_rate):
        raise OptionError(f"{revision.name} has no recipe of its parent: give batch=(B, T) and lr, those of k = 1")
    own = (parent.recipe.sizes.at(parent.position), parent.recipe.sequence_length) if parent.recipe else (0, 0)
    base, length = batch or own
    for multiplier in multipliers:
        sequences = multiplier * base
        if sequences < 1 or sequences != int(sequences):
            raise OptionError(
                f"multipliers must give whole batches of the {base} sequences of {revision.name} "
                f"(got {multiplier:g}, which gives {sequences:g})"
            )
        yield Branch(
            revision=revision.name,
            step=parent.step,
            tokens=revision.tokens,
            multiplier=float(multiplier),
            sequences=int(sequences),
            sequence_length=length,
            updates=math.ceil(tokens / (int(sequences) * length)),
        )
