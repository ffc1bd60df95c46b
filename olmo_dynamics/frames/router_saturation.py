"""Router saturation: the share of each token's experts that a later revision also chooses.

>>> settled = saturation(store)  # doctest: +SKIP
>>> settled.filter(layer=0).select("step", "saturation", "baseline")  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import Grid, numbers
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.store import Store


def saturation(store: Store, reference: str | None = None, *, top: int | None = None) -> pl.DataFrame:
    """The mean over tokens of |chosen now ∩ chosen by the reference| / k, by revision and layer.

    Router saturation: OLMoE, arXiv:2409.02060, equation 5.

    Args:
        store: a store with the group `routing`.
        reference: the name of a revision in the store; by default the last one.
        top: the number of most probable experts to compare per token; by default all k that it is sent to.

    Returns:
        The leading columns, `layer`, `saturation`, `baseline` (k / E, the value of random routing) and `reference`.

    Raises:
        OptionError: the store has no routing or no such revision, or tokens are sent to fewer experts than `top`.
    """
    if "routing" not in store.groups:
        raise OptionError(
            f"{store.path} must have the group routing; collect a model with experts with --record routing"
        )
    grid = Grid(store)
    names = grid.leading["revision"].to_list()
    reference = names[-1] if reference is None and names else reference
    if reference not in names:
        raise OptionError(f"reference must be a revision in {store.path}, {_few(names)} (got {reference})")
    chosen = grid.array("routing", "chosen_experts")
    top = chosen.shape[-1] if top is None else top
    if not 1 <= top <= chosen.shape[-1]:
        raise OptionError(f"top must be between 1 and {chosen.shape[-1]}, the experts per token (got {top})")
    shares = _shares(chosen[..., :top], chosen[names.index(reference), ..., :top])
    kept = (grid.status("routing", ("layer",)) != Status.NOT_MEASURED) & ~np.isnan(shares)
    return grid.rows(("layer",), kept).with_columns(
        numbers("saturation", shares[kept]),
        pl.lit(top / len(store.axis("expert"))).alias("baseline"),
        pl.lit(reference).alias("reference"),
    )


def _shares(chosen: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Means over tokens, [revision, layer], of choices [revision, layer, sequence, position, choice] that are shared.

    One revision at a time and one pair of ranks at a time: no array is larger than the choices themselves.
    """
    shares = np.full(chosen.shape[:2], np.nan)
    for revision, layers in enumerate(chosen):
        common = np.zeros(reference.shape[:-1], dtype=np.int64)
        for rank in range(reference.shape[-1]):
            common += (layers == reference[..., rank : rank + 1]).sum(axis=-1)
        real = (layers[..., 0] >= 0) & (reference[..., 0] >= 0)
        tokens = real.sum(axis=(1, 2))
        totals = np.where(real, common, 0).sum(axis=(1, 2)) / reference.shape[-1]
        np.divide(totals, tokens, out=shares[revision], where=tokens > 0)
    return shares


def _few(names: list[str]) -> str:
    if not names:
        return "none yet"
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:2])}, … {names[-1]}"
