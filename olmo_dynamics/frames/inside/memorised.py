"""Memory of a batch: the loss on the batch of one step before and after it, beside a held-out twin.

>>> memorisation(open_store("run.zarr"), batch="step40", twin="heldout", step=40)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl
from jaxtyping import Float

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.frames.recorded import RecordedStore

SEED, SHUFFLES = 20240907, 9_999
"""The seed and the number of random permutations, where there are too many to try them all."""

_EXACT = 12  # sequences up to which every permutation is tried


@dataclass(frozen=True, slots=True)
class MemorisationTest:
    """The change of the loss on a batch beyond that on its twin, in nats per token, and its one-sided permutation test."""

    statistic: float
    p_value: float
    sequences: int


def memorisation(store: RecordedStore, *, batch: str, twin: str, step: int) -> pl.DataFrame:
    """Follow the loss on the batch of a step through a line of training, beside the loss on as many held-out sequences.

    The group `tokens` must have been recorded on a probe of both: `olmo-dyn batches … --out step40.npy` writes the batch of a
    step, and `olmo-dyn collect … --tokens step40.npy --tokens heldout.npy --record tokens` measures it. Revision N - 1 has not
    yet seen the batch of step N, and revision N has. With the loss of a sequence the mean over its scored tokens:

    Returns:
        The leading columns, `batch_step` (N), `offset` (the revision's step minus N), `batch_loss` and `twin_loss` (means over
        sequences, nats per token), `gap` (batch minus twin), `gain` (the gap minus that at the last revision before the batch:
        below 0 is memory, and its way back to 0 forgetting) and `gain_se` (over pairs of sequences).

    Raises:
        OptionError: the store lacks per-token losses or a domain, no revision lies before the batch, or the two differ in
            sequences.
    """
    if "tokens" not in store.groups:
        raise OptionError(f"{store.path} must have the group tokens; collect with --record tokens")
    frame = store.table("tokens").filter(pl.col("step").is_not_null())
    known = frame["domain"].unique().to_list()
    for name in (batch, twin):
        if name not in known:
            raise OptionError(f"{name!r} must be a domain of the probe of {store.path}{did_you_mean(name, known)}")
    means = frame.group_by([*LEADING, "domain", "sequence"], maintain_order=True).agg(
        pl.col("token_cross_entropy").cast(pl.Float64).mean()
    )
    parts = [_of_line(rows, batch, twin, step) for _, rows in means.group_by(["line"], maintain_order=True)]
    return pl.concat(parts)


def _of_line(rows: pl.DataFrame, batch: str, twin: str, step: int) -> pl.DataFrame:
    leading = rows.select(LEADING).unique("step", keep="first").sort("step")
    steps = leading["step"].to_numpy()
    if not (steps < step).any():
        raise OptionError(f"a revision must lie before step {step} on {leading['line'][0]} (got step {steps[0]} first)")
    losses = [_losses(rows, name, steps) for name in (batch, twin)]
    if losses[0].shape != losses[1].shape:
        raise OptionError(
            f"{batch} and {twin} must have as many sequences to be paired (got {losses[0].shape[1]} and {losses[1].shape[1]})"
        )
    gap = losses[0] - losses[1]
    gain = gap - gap[np.flatnonzero(steps < step)[-1]]
    error = gain.std(axis=1, ddof=1) / np.sqrt(gain.shape[1]) if gain.shape[1] > 1 else np.full(len(gain), np.nan)
    return leading.with_columns(
        pl.lit(step).alias("batch_step"),
        (pl.col("step") - step).alias("offset"),
        pl.Series("batch_loss", losses[0].mean(axis=1)),
        pl.Series("twin_loss", losses[1].mean(axis=1)),
        pl.Series("gap", gap.mean(axis=1)),
        pl.Series("gain", gain.mean(axis=1)),
        pl.Series("gain_se", error),
    )


def _losses(rows: pl.DataFrame, domain: str, steps: np.ndarray) -> np.ndarray:
    """The loss of each sequence of a domain, [revisions, sequences]."""
    own = rows.filter(pl.col("domain") == domain).unique(["step", "sequence"], keep="first").sort("step", "sequence")
    found: np.ndarray = own["token_cross_entropy"].to_numpy().astype(np.float64).reshape(len(steps), -1)
    return found


def memorisation_test(
    batch: Float[np.ndarray, "2 sequences"], twin: Float[np.ndarray, "2 sequences"]
) -> MemorisationTest:
    """Test whether the loss on a batch fell more than that on its twin, from before the batch (row 0) to after it (row 1).

    The statistic is (batch - twin) after minus (batch - twin) before, the mean over pairs of sequences. Where nothing was learnt
    of the batch in particular, a sequence and its twin may be exchanged, which turns the sign of their pair's difference. The
    p-value is the share of such permutations with a statistic as low: of all of them for up to 12 pairs, else of 9,999 random
    ones and the data's own.

    Raises:
        OptionError: the two differ in shape, or have no sequence.
    """
    if batch.shape != twin.shape or batch.shape[0] != 2 or not batch.shape[1]:
        raise OptionError(
            f"batch and twin must be [2, sequences] alike (got {list(batch.shape)} and {list(twin.shape)})"
        )
    pairs = (batch[1] - twin[1]) - (batch[0] - twin[0])
    count, own = len(pairs), float(pairs.mean())
    slack = 1e-12 * max(1.0, float(np.abs(pairs).max()))  # sums of another order
    if count <= _EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
        return MemorisationTest(own, float((signs @ pairs / count <= own + slack).mean()), count)
    signs = np.random.default_rng(SEED).choice((1.0, -1.0), (SHUFFLES, count))
    below = int((signs @ pairs / count <= own + slack).sum())
    return MemorisationTest(own, (1 + below) / (1 + SHUFFLES), count)
