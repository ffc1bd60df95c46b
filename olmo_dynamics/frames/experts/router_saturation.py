"""Router saturation and churn: the share of each token's experts that another revision also chooses.

>>> settled = saturation(store)  # doctest: +SKIP
>>> settled.filter(layer=0).select("step", "share_of_training", "saturation", "baseline")  # doctest: +SKIP
>>> churn(store).select("step", "next_revision", "layer", "churn")  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.experts.choices import Choices
from olmo_dynamics.frames.grid import numbers
from olmo_dynamics.store import Store


def saturation(
    source: Store | Choices, reference: str | None = None, *, top: int | None = None, last_step: int | None = None
) -> pl.DataFrame:
    """The mean over tokens of |chosen now ∩ chosen by the reference| / k, by revision and layer.

    Router saturation: OLMoE, arXiv:2409.02060, equation 5.

    Args:
        source: a store with the group `routing`, or published choices.
        reference: the name of a revision in it; by default the last one.
        top: the number of most probable experts to compare per token; by default all k that it is sent to.
        last_step: the step at the end of training; by default that of the reference. The point that OLMoE's figure calls
            1 % is step 5,000 of 1,223,842, a share of 0.0041.

    Returns:
        The leading columns, `layer`, `saturation`, `baseline` (k / E, the value of random routing), `reference`, `top` and
        `share_of_training` (the step over the last step, null where either is unknown).

    Raises:
        OptionError: the store has no routing or no such revision, or tokens are sent to fewer experts than `top`.
    """
    choices = Choices.of(source)
    names = choices.leading["revision"].to_list()
    reference = names[-1] if reference is None and names else reference
    if reference not in names:
        where = f"in {source.path}" if isinstance(source, Store) else "among the choices"
        raise OptionError(f"reference must be a revision {where}, {_few(names)} (got {reference})")
    chosen, top = _at_most(choices, top)
    place = names.index(reference)
    shares = np.array([_shares(each, chosen[place]) for each in chosen])
    steps = choices.leading["position_step"].fill_null(choices.leading["step"])
    last = steps[place] if last_step is None else last_step
    return _rows(choices, shares, "saturation").with_columns(
        pl.lit(top / choices.experts).alias("baseline"),
        pl.lit(reference).alias("reference"),
        pl.lit(top, pl.Int64).alias("top"),
        (pl.col("position_step").fill_null(pl.col("step")) / (last or None))
        .cast(pl.Float64)
        .alias("share_of_training"),
    )


def churn(source: Store | Choices, *, top: int | None = None) -> pl.DataFrame:
    """The mean over tokens of the share of their experts that change up to the next revision of the same line of training.

    1 - |chosen now ∩ chosen next| / k. It grows with the steps between, which are a column: compare equal distances.

    Args:
        source: a store with the group `routing`, or published choices.
        top: the number of most probable experts to compare per token; by default all k that it is sent to.

    Returns:
        The leading columns of the earlier revision, `layer`, `churn`, `baseline` (1 - k / E, the value of random routing),
        `next_revision`, `steps_between` (null where unknown) and `top`; no row for the last revision of a line.

    Raises:
        OptionError: the store has no routing, or tokens are sent to fewer experts than `top`.
    """
    choices = Choices.of(source)
    chosen, top = _at_most(choices, top)
    lines, names, steps = (choices.leading[name].to_list() for name in ("line", "revision", "step"))
    shares = np.full(chosen.shape[:2], np.nan)
    for place, line in enumerate(lines[:-1]):
        if lines[place + 1] == line:
            shares[place] = 1 - _shares(chosen[place], chosen[place + 1])
    gaps = [None if None in pair else pair[1] - pair[0] for pair in zip(steps, [*steps[1:], None], strict=True)]
    following = pl.DataFrame(
        {"revision": names, "next_revision": [*names[1:], None], "steps_between": gaps},
        schema={"revision": pl.String, "next_revision": pl.String, "steps_between": pl.Int64},
    )
    found = _rows(choices, shares, "churn").with_columns(pl.lit(1 - top / choices.experts).alias("baseline"))
    return found.join(following, on="revision", how="left", maintain_order="left").with_columns(
        pl.lit(top, pl.Int64).alias("top")
    )


def _at_most(choices: Choices, top: int | None) -> tuple[np.ndarray, int]:
    """The `top` most probable choices, and their number."""
    top = choices.per_token if top is None else top
    if not 1 <= top <= choices.per_token:
        raise OptionError(f"top must be between 1 and {choices.per_token}, the experts per token (got {top})")
    return choices.chosen[..., :top], top


def _rows(choices: Choices, values: np.ndarray, name: str) -> pl.DataFrame:
    """One row for each revision and layer with a value."""
    revisions, layers = np.nonzero(~np.isnan(values))
    columns = [column.gather(revisions) for column in choices.leading]
    of_layers = pl.Series("layer", np.array(choices.layers, dtype=np.int64)[layers])
    return pl.DataFrame([*columns, of_layers]).with_columns(numbers(name, values[revisions, layers]))


def _shares(chosen: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Means over tokens, [layer], of choices [layer, token, choice] that are shared.

    One pair of ranks at a time: no array is larger than the choices themselves.
    """
    common = np.zeros(reference.shape[:-1], dtype=np.int64)
    for rank in range(reference.shape[-1]):
        common += (chosen == reference[..., rank : rank + 1]).sum(axis=-1)
    real = (chosen[..., 0] >= 0) & (reference[..., 0] >= 0)
    totals, tokens = np.where(real, common, 0).sum(axis=-1) / reference.shape[-1], real.sum(axis=-1)
    shares: np.ndarray = np.divide(totals, tokens, out=np.full(len(chosen), np.nan), where=tokens > 0)
    return shares


def _few(names: list[str]) -> str:
    if not names:
        return "none yet"
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:2])}, … {names[-1]}"
