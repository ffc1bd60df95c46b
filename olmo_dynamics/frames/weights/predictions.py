"""Predictions from the learning rate and the weight decay alone, beside what was measured.

>>> embedding_decay(open_store("olmo-7b-0724.zarr"))  # doctest: +SKIP
>>> rotation(open_store("olmo2-1b.zarr")).filter(role="q_proj")  # doctest: +SKIP

A row of the input embedding that no token reaches gets no gradient, so AdamW only multiplies it by 1 - η λ in every step.
Weights whose scale has no effect turn, in equilibrium, by an angle that η, λ and β₁ set (Kosson et al. 2024,
arXiv:2305.17212).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from olmo_dynamics.checkpoints import known_run
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.curves import METRICS_FILE, metrics
from olmo_dynamics.frames.lineage import run_folder
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.frames.weights.distances import displacement
from olmo_dynamics.frames.weights.sketched import require_store

EMBEDDING = "model.embed_tokens.weight"

FORGOTTEN = 3.0
"""2 Σ η λ from which on the squared norm has forgotten its beginning to within exp(-3), 5 %."""

_STATE = "training_state/state.json"


@dataclass(frozen=True)
class TrainingRates:
    """Learning rates of a line of training by step, and the decay of each tensor."""

    rates: Float[np.ndarray, " steps"]  # of the update that makes step first + 1, first + 2, …
    first: int
    weight_decay: float
    beta1: float
    decays: Callable[[str], bool]

    def sums(self, steps: np.ndarray) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Σ η λ, and Σ ln(1 - η λ), from the first step to each; NaN beyond the known rates."""
        decay = self.rates * self.weight_decay
        places = np.asarray(steps, np.int64) - self.first
        known = (places >= 0) & (places <= len(decay))
        at = np.where(known, places, 0)
        totals = (np.r_[0, np.cumsum(decay)][at], np.r_[0, np.cumsum(np.log1p(-decay))][at])
        return np.where(known, totals[0], np.nan), np.where(known, totals[1], np.nan)


def embedding_decay(store: RecordedStore) -> pl.DataFrame:
    """The size of the padding rows of the input embedding, measured, and predicted from the first revision's.

    The prediction is RMS(first) Π (1 - η λ) over the updates since, or RMS(first) where embeddings do not decay.

    Returns:
        One row per revision of each line whose learning rates are known: the leading columns, `embedding`, `measured` and
        `predicted` (weight units).

    Raises:
        OptionError: the store has no embeddings with padding rows, its head is tied to them, or no schedule is known.
    """
    require_store(store)
    if "embeddings" not in store.groups:
        raise OptionError(f"{store.path} must have the group embeddings; collect it with --record embeddings")
    if (store.attributes.get("model_config") or {}).get("tie_word_embeddings"):
        raise OptionError(f"the head of {store.attributes['source']} is its embedding, so every row gets gradient")
    rows = store.table("embeddings").filter(
        pl.col("embedding") == EMBEDDING, pl.col("padding_rms").is_finite(), pl.col("step").is_not_null()
    )
    if rows.is_empty():
        raise OptionError(f"{store.path} must hold the size of padding rows (got none)")
    leading = [name for name in rows.columns if name in store.table("revisions").columns]
    parts = []
    for line in rows.partition_by("line", maintain_order=True):
        known = rates_of(store, line["stage"][0])
        if known is None:
            continue
        _, logs = known.sums(line["step"].to_numpy())
        grown = np.exp(logs - logs[0]) if known.decays(EMBEDDING) else np.ones(len(logs))
        parts.append(
            line.select(
                *leading, "embedding", pl.col("padding_rms").alias("measured"),
                pl.Series("predicted", line["padding_rms"][0] * grown).fill_nan(None),
            )
        )  # fmt: skip
    return pl.concat(_required(store, parts))


def rotation(store: RecordedStore) -> pl.DataFrame:
    """The angle of each decaying matrix between neighbouring revisions, and that of rotational equilibrium.

    Over n updates with mean η λ, cos(angle) = exp(-η λ V(n)) with V(n) = n - 2 β₁ (1 - β₁ⁿ) / (1 - β₁²): a walk of
    uncorrelated gradients, smoothed by momentum. For one update it is sqrt(2 η λ (1 - β₁) / (1 + β₁)). It is predicted from
    the revision on at which 2 Σ η λ is 3, so that weight decay has forgotten the beginning.

    Returns:
        One row per revision and matrix that decays, from the second revision of each line: the leading columns, `tensor`,
        `layer`, `role`, `angle`, `angle_se`, `predicted` (radians; null before equilibrium) and `updates` in between.

    Raises:
        OptionError: the store has no sketches, no schedule is known, or no line has come to equilibrium.
    """
    moved = displacement(store, "previous").filter(pl.col("layer").is_not_null(), ~pl.col("role").str.contains("norm"))
    parts = []
    for line in moved.filter(pl.col("step").is_not_null()).partition_by("line", maintain_order=True):
        known = rates_of(store, line["stage"][0])
        if known is None:
            continue
        decaying = line.filter(pl.col("tensor").map_elements(known.decays, return_dtype=pl.Boolean))
        steps = decaying["step"].unique().sort()
        table = pl.DataFrame({"step": steps, **_equilibrium(known, steps.to_numpy())})
        parts.append(decaying.join(table, on="step", maintain_order="left").filter(pl.col("updates").is_not_null()))
    found = pl.concat(_required(store, parts))
    if found["predicted"].is_null().all():
        raise OptionError(
            f"{store.attributes['source']} must have come to rotational equilibrium: 2 Σ η λ of at least {FORGOTTEN:g}"
        )
    shown = ("tensor", "layer", "role", "angle", "angle_se", "predicted", "updates", "status")
    return found.select(*moved.columns[: moved.columns.index("tensor")], *shown)


def _equilibrium(known: TrainingRates, steps: np.ndarray) -> dict[str, pl.Series]:
    """For each step but the first, the updates since the one before, and the angle that they make in equilibrium."""
    total, _ = known.sums(steps)
    count = np.diff(steps, prepend=steps[:1])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.diff(total, prepend=total[:1]) / count
    beta = known.beta1
    walked = count - 2 * beta * (1 - beta ** count.astype(np.float64)) / (1 - beta**2)
    angle = np.arccos(np.exp(-mean * walked))
    before = np.r_[np.nan, total[:-1]]
    settled = 2 * before >= FORGOTTEN
    return {
        "updates": pl.Series(count).set(pl.Series(count == 0), None),
        "predicted": pl.Series(np.where(settled, angle, np.nan)).fill_nan(None),
    }


def rates_of(store: RecordedStore, stage: int | None) -> TrainingRates | None:
    """The learning rates of a stage of the run in a store: of a known run, or of one that this package trained."""
    published = known_run(str(store.attributes["source"]))
    if published is not None:
        schedule, held = published.schedule(stage), published.stage(stage)
        if schedule is None or held is None:
            return None
        last = max(store.table("revisions")["step"].drop_nulls(), default=0)
        rates = schedule.rates(np.arange(1, last + 1), held.tokens_per_step)
        return TrainingRates(
            rates, 0, schedule.weight_decay, schedule.beta1,
            lambda name: not name.endswith(".bias") and (schedule.decays_embeddings or "embed_tokens" not in name),
        )  # fmt: skip
    folder = run_folder(store)
    return None if folder is None else _own_rates(folder)


def _own_rates(folder: Path) -> TrainingRates | None:
    """The rates in a run's metrics, and the decay in the recipe of its first checkpoint; None without either."""
    states = sorted(folder.glob(f"*/{_STATE}"))
    if not states or not (folder / METRICS_FILE).is_file():
        return None
    recipe = json.loads(states[0].read_text(encoding="utf-8"))["recipe"]
    logged = metrics(folder).filter(pl.col("learning_rate").is_not_null()).sort("step")
    steps = logged["step"].to_numpy()
    if not len(steps) or not (np.diff(steps) == 1).all():
        return None
    exempt = [*recipe["no_decay"], *recipe.get("frozen", [])]
    return TrainingRates(
        logged["learning_rate"].to_numpy(), int(steps[0]) - 1, recipe["weight_decay"], recipe["betas"][0],
        lambda name: not any(fnmatchcase(name, pattern) for pattern in exempt),
    )  # fmt: skip


def _required(store: RecordedStore, parts: list[pl.DataFrame]) -> list[pl.DataFrame]:
    if not parts:
        raise OptionError(
            f"the learning rates of {store.attributes['source']} must be known, from olmo-dyn runs or from the metrics in "
            "its folder"
        )
    return parts
