"""Losses along the line between two revisions as a table, and the barrier that each line crosses.

>>> curve = od.interpolate("cache/demo/run", "step94-tokens96256", "step400-tokens409600")  # doctest: +SKIP
>>> barriers(curve)  # doctest: +SKIP

Definitions: Frankle et al. 2020, arXiv:1912.05671 (the barrier); Entezari et al. 2022, arXiv:2110.06296 (over the chord).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.quantities import remember
from olmo_dynamics.quantities.declaration import Group, Quantity

ALL_TOKENS = "all tokens"
"""The domain of the mean over all scored tokens of a probe."""

LossCurve = pl.DataFrame
"""The table of `od.interpolate`."""

_LINEAR_MODE = "Frankle et al. 2020, linear mode connectivity, arXiv:1912.05671"
_CHORD = "Entezari et al. 2022, arXiv:2110.06296"

INTERPOLATION = Group(
    "interpolation",
    ("domain",),
    "Losses along the line between the weights of two revisions.",
    (
        Quantity("share", long_name="share of the way from start to end", formula="θ(a) = (1 - a) θ₁ + a θ₂", symbol="a",
                 source=_LINEAR_MODE, valid=(0.0, 1.0)),
        Quantity("barrier", long_name="barrier", formula="max over a of E(θ(a)) - (E₁ + E₂) / 2", unit="nat/token",
                 source=_LINEAR_MODE),
        Quantity("chord_barrier", long_name="barrier over the chord",
                 formula="max over a of E(θ(a)) - (1 - a) E₁ - a E₂", unit="nat/token", source=_CHORD),
        Quantity("highest_at", long_name="share of the way at which the loss is highest", formula="argmax over a of E(θ(a))",
                 source=_LINEAR_MODE, valid=(0.0, 1.0)),
        Quantity("midpoint_gap", long_name="loss of the midpoint over that of the better end",
                 formula="E(θ(0.5)) - min(E₁, E₂)", unit="nat/token", source="uniform average of two checkpoints",
                 note="below 0, the average of both is better than either"),
    ),
)  # fmt: skip
"""The quantities of the tables of `od.interpolate` and of `barriers`, beside those of the group `loss`."""


class LossesOnPath(Protocol):
    """Losses by share of the way and domain."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the way, in order."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The probe's domains."""

    @property
    def cross_entropy(self) -> np.ndarray:
        """[shares, domains], in nats per token."""

    @property
    def bits_per_byte(self) -> np.ndarray:
        """[shares, domains]; NaN where bytes are not known."""

    @property
    def scored_tokens(self) -> np.ndarray:
        """[domains]."""


def interpolation_table(start: str, end: str, found: LossesOnPath) -> pl.DataFrame:
    """One row per share of the way and domain, and one of the mean over all tokens: `start`, `end`, `share`, `domain`,
    `cross_entropy`, `bits_per_byte` and `scored_tokens`."""
    remember(INTERPOLATION)
    counts = np.asarray(found.scored_tokens, np.float64)
    nats = np.where(counts > 0, found.cross_entropy, 0.0) * counts
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = np.where(counts > 0, nats / (found.bits_per_byte * math.log(2)), 0.0)  # bytes of each domain's tokens
        whole = nats.sum(axis=1) / counts.sum(), nats.sum(axis=1) / (sizes.sum(axis=1) * math.log(2))
    rows = []
    for place, share in enumerate(found.shares):
        of_domains = zip(found.domains, found.cross_entropy[place], found.bits_per_byte[place], counts, strict=True)
        for domain, loss, bits, count in (*of_domains, (ALL_TOKENS, whole[0][place], whole[1][place], counts.sum())):
            rows.append((start, end, share, domain, float(loss), float(bits), int(count)))
    names = {"start": pl.String, "end": pl.String, "share": pl.Float64, "domain": pl.String, "cross_entropy": pl.Float64,
             "bits_per_byte": pl.Float64, "scored_tokens": pl.Int64}  # fmt: skip
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(
        pl.col("cross_entropy", "bits_per_byte").fill_nan(None)
    )


def barriers(curve: pl.DataFrame, y: str = "cross_entropy") -> pl.DataFrame:
    """The barrier of each line of `od.interpolate`, by domain; tables of several lines may be stacked.

    With E₁ and E₂ the losses of both ends: `barrier` = max E(θ(a)) - (E₁ + E₂) / 2; `chord_barrier` = max of E(θ(a)) less the
    chord (1 - a) E₁ + a E₂; `highest_at`, the share a at which E is highest; `midpoint_gap` = E(θ(0.5)) - min(E₁, E₂), null
    where the midpoint was not measured. The unit is that of `y`. Two equal checkpoints have barriers of exactly 0.

    Returns:
        One row per start, end and domain.

    Raises:
        OptionError: a column is missing, or the loss of an end.
    """
    for column in ("start", "end", "share", "domain", y):
        if column not in curve.columns:
            raise OptionError(
                f"barriers() needs a table of od.interpolate with {column!r} (got {', '.join(curve.columns)})"
            )
    rows = []
    for part in curve.partition_by("start", "end", "domain", maintain_order=True):
        known = part.drop_nulls(y).sort("share")
        shares, losses = known["share"].to_numpy(), known[y].to_numpy()
        if not len(shares) or shares[0] != 0 or shares[-1] != 1:
            raise OptionError(f"barriers() needs the losses of both ends of {part['start'][0]} → {part['end'][0]}")
        first, last = float(losses[0]), float(losses[-1])
        middle = losses[shares == 0.5]
        rows.append(
            {
                **{name: part[name][0] for name in ("start", "end", "domain")},
                "barrier": float(losses.max()) - (first + last) / 2,
                "chord_barrier": float((losses - first - shares * (last - first)).max()),
                "highest_at": float(shares[losses.argmax()]),
                "midpoint_gap": float(middle[0]) - min(first, last) if len(middle) else None,
            }
        )
    remember(INTERPOLATION)
    return pl.DataFrame(rows, schema_overrides={"midpoint_gap": pl.Float64})
