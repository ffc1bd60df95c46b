"""The numbers of attention that is even over all visible keys, on the windows of a store's probe.

>>> uniform_attention(open_store("run.zarr"))["entropy"].unique()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.store import Store

_SLIDING = "sliding_attention"


def uniform_attention(store: Store) -> pl.DataFrame:
    """One row per layer with `entropy`, `sink_mass`, `previous_token_mass` and `mean_distance`.

    `window` is the number of positions that a query sees, null if it sees all before it. The formulas are those of the group
    `attention` with A_ij = 1 / n_i over the n_i keys that query i sees: the mean over queries of ln n_i, of the mass 1 / n_i on
    the first and on the previous position (i >= 1), and of (n_i - 1) / 2.

    Raises:
        OptionError: the store holds no probe.
    """
    probe = store.probe()
    if "mask" not in probe:
        raise OptionError(f"{store.path} must hold a probe (got none)")
    lengths = np.asarray(probe["mask"]).sum(axis=1)
    config: Mapping[str, Any] = store.attributes.get("model_config") or {}
    rows = [
        {"layer": layer, "window": window, **_numbers(lengths, window)} for layer, window in enumerate(_windows(config))
    ]
    return pl.DataFrame(rows, schema_overrides={"window": pl.Int64})


def uniform_prefix_matching(length: int) -> float:
    """The prefix-matching score of even attention on windows [R; R], |R| = `length`.

    It is the mean of 1 / (i + 1) over the second half (Olsson et al. 2022, arXiv:2209.11895).

    >>> round(uniform_prefix_matching(64), 6)
    0.01077
    """
    return float(np.mean(1 / np.arange(length + 1, 2 * length + 1)))


def _windows(config: Mapping[str, Any]) -> list[int | None]:
    layers, size = int(config.get("num_hidden_layers") or 0), config.get("sliding_window")
    types = config.get("layer_types") or [_SLIDING if size and (layer + 1) % 4 else "" for layer in range(layers)]
    return [int(size) if size and kind == _SLIDING else None for kind in types[:layers]]


def _numbers(lengths: np.ndarray, window: int | None) -> dict[str, float]:
    position = np.concatenate([np.arange(length) for length in lengths]) if lengths.sum() else np.zeros(0, dtype=int)
    visible = np.minimum(position + 1, window or np.iinfo(np.int64).max)
    later = position >= 1
    first = np.where(position < visible, 1 / visible, 0.0)[later]
    previous = np.where(visible > 1, 1 / visible, 0.0)[later]
    means = {
        "entropy": np.log(visible),
        "sink_mass": first,
        "previous_token_mass": previous,
        "mean_distance": (visible - 1) / 2,
    }
    return {name: float(values.mean()) if values.size else float("nan") for name, values in means.items()}
