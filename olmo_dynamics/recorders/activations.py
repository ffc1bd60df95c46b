"""Statistics of activations at named sites, gathered over batches of tokens.

    >>> import torch
    >>> recorder = ActivationRecorder()
    >>> recorder.observe(Site.RESIDUAL_OUT, 0, torch.ones(1, 2, 4), np.ones((1, 2), dtype=bool))
    >>> values = {record.quantity.name: record.values for record in recorder.records()}
    >>> float(values["l2_norm"]), float(values["norm_sparsity"])
    (2.0, 1.0)

First positions, where attention sinks and massive activations sit, are gathered apart from the rest: the quantities named
`_without_first` are of the rest, the others of both merged. Elements are float32 (float64 is accepted), sums float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt
from torch import Tensor

from olmo_dynamics.names import Record, Site, Status
from olmo_dynamics.quantities import TOKEN_QUANTILES, WITHOUT_FIRST, find
from olmo_dynamics.recorders.elements import CodeCounts, FloatSums
from olmo_dynamics.recorders.moments import kurtosis, ratio
from olmo_dynamics.recorders.observed import Observed, observed_tokens, values_of
from olmo_dynamics.recorders.order import quantiles_of
from olmo_dynamics.recorders.token_kernels import (
    LARGEST,
    LOWER_MEDIAN,
    UPPER_MEDIAN,
    Tokens,
    TokenTotals,
    add_tokens,
)


class ActivationRecorder:
    """The group `activations`, for any number of (site, layer) places.

    Two recorders that saw different tokens merge to one that saw them all, up to rounding.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[Site, int], _Place] = {}

    def observe(
        self,
        site: Site,
        layer: int,
        x: Float[Tensor, "batch positions width"],
        mask: Bool[np.ndarray, "batch positions"],
        first_position: int = 0,
    ) -> None:
        """Adds the tokens where `mask` is true; `first_position` is the place in its sequence of the first one given."""
        self.add(site, layer, observed_tokens(x, mask, first_position))

    def add(self, site: Site, layer: int, observed: Observed) -> Tokens:
        """Adds tokens, and gives what was found of each for other recorders to read."""
        tokens = Tokens.zeros(len(observed.codes), observed.codes.dtype)
        self._place(site, layer, observed.width).add(observed, tokens)
        return tokens

    def merge(self, other: ActivationRecorder) -> None:
        """Adds what `other` saw."""
        for (site, layer), place in other._places.items():
            self._place(site, layer, place.first.width).merge(place)

    def harvest(self, layer: int) -> list[Record]:
        """What was measured at one layer; its sums are dropped."""
        places = [(key, self._places.pop(key)) for key in list(self._places) if key[1] == layer]
        return [record for (site, _), place in places for record in place.records(site, layer)]

    def records(self) -> list[Record]:
        """What was measured at every layer not yet harvested."""
        return [record for layer in sorted({layer for _, layer in self._places}) for record in self.harvest(layer)]

    def _place(self, site: Site, layer: int, width: int) -> _Place:
        if (site, layer) not in self._places:
            self._places[site, layer] = _Place(width)
        return self._places[site, layer]


class _Place:
    """One site of one layer: its first positions and the rest."""

    def __init__(self, width: int) -> None:
        self.first, self.rest = _Gathered(width), _Gathered(width)

    def add(self, observed: Observed, tokens: Tokens) -> None:
        self.first.add(observed.codes, observed.first, tokens)
        self.rest.add(observed.codes, observed.rest, tokens)

    def merge(self, other: _Place) -> None:
        self.first.merge(other.first)
        self.rest.merge(other.rest)

    def records(self, site: Site, layer: int) -> Iterable[Record]:
        everything = _Gathered(self.rest.width)
        everything.merge(self.first)
        everything.merge(self.rest)
        values = everything.values(features=site.hidden_wide)
        without_first = self.rest.values(features=site.hidden_wide)
        values |= {name + WITHOUT_FIRST: value for name, value in without_first.items() if name != "status"}
        for name, value in values.items():
            yield Record(find(f"activations/{name}"), np.asarray(value), {"site": site.value, "layer": layer})


class _Gathered:
    """Sums over one set of tokens, from which every quantity follows."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._feature_squares = np.zeros(width)
        self._feature_maxima = np.zeros(width)
        self._abs_sum = 0.0
        self._sparsity_sum = 0.0  # of sqrt(d) * L2 / L1, token by token
        self._max_median_sum = 0.0  # of max / median, token by token
        self._norms: list[Float[np.ndarray, " tokens"]] = []
        self._elements: CodeCounts | FloatSums | None = None  # by the width of what comes first

    def add(self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"], tokens: Tokens) -> None:
        if not len(rows):
            return
        self._elements = self._elements or (CodeCounts() if codes.itemsize == 2 else FloatSums())
        maxima = np.zeros(self.width, codes.dtype)
        totals = TokenTotals(self._elements.counts, self._elements.moments, self._feature_squares, maxima)
        add_tokens(codes, rows, totals, tokens)
        self._elements.add(codes, rows)
        self._feature_maxima = np.maximum(self._feature_maxima, values_of(maxima))
        self._add_tokens(tokens.squares[rows], tokens.absolutes[rows], values_of(tokens.magnitudes[rows]))

    def _add_tokens(
        self,
        squares: Float[np.ndarray, " tokens"],
        absolutes: Float[np.ndarray, " tokens"],
        magnitudes: Float[np.ndarray, "tokens 3"],
    ) -> None:
        norms = np.sqrt(squares)
        medians = (magnitudes[:, LOWER_MEDIAN] + magnitudes[:, UPPER_MEDIAN]) / 2
        medians[np.isnan(squares)] = math.nan  # NaN sorts last, so a median beside it looks finite
        self._norms.append(norms)
        self._abs_sum += float(absolutes.sum())
        self._sparsity_sum += float(_ratios(math.sqrt(self.width) * norms, absolutes).sum())
        self._max_median_sum += float(_ratios(magnitudes[:, LARGEST], medians).sum())

    def merge(self, other: _Gathered) -> None:
        self._feature_squares += other._feature_squares
        self._feature_maxima = np.maximum(self._feature_maxima, other._feature_maxima)
        self._abs_sum += other._abs_sum
        self._sparsity_sum += other._sparsity_sum
        self._max_median_sum += other._max_median_sum
        self._norms += other._norms
        if other._elements is not None:
            self._elements = self._elements or type(other._elements)()
            self._elements.merge(other._elements)  # type: ignore[arg-type]  # of one place, so of one dtype

    @property
    def _tokens(self) -> int:
        return sum(len(norms) for norms in self._norms)

    def values(self, *, features: bool) -> dict[str, object]:
        """Every quantity by name, and the status; those by feature only where features are the residual stream's."""
        n = self._tokens
        if n == 0:
            return self._nothing(features=features)
        norms = np.concatenate(self._norms)
        mean_squares = self._feature_squares / n
        values = self._elementwise(n * self.width, float(self._feature_squares.sum()))
        values |= {
            "l2_norm": norms.mean(),
            "l2_norm_quantile": quantiles_of(TOKEN_QUANTILES, norms),
            "token_norm_sparsity": self._sparsity_sum / n,
            "max_median_ratio": self._max_median_sum / n,
            "feature_kurtosis": ratio(float(np.mean(mean_squares**2)), float(np.mean(mean_squares)) ** 2),
        }
        return values | (self._by_feature(mean_squares) if features else {})

    def _elementwise(self, elements: int, square_sum: float) -> dict[str, object]:
        assert self._elements is not None
        moments = self._elements.central_moments()
        abs_max = float(self._feature_maxima.max())
        abs_median = self._elements.median() if not math.isnan(abs_max) else math.nan
        ratios = (kurtosis(moments), self._sparsity_sum, self._max_median_sum, ratio(1.0, abs_median))
        status = Status.MEASURED if np.isfinite(ratios).all() else Status.DEGENERATE
        return {
            "status": np.uint8(status if np.isfinite(moments).all() else Status.NONFINITE),
            "rms": math.sqrt(square_sum / elements),
            "mean": moments[1],
            "abs_max": abs_max,
            "abs_mean": self._abs_sum / elements,
            "abs_median": abs_median,
            "kurtosis": kurtosis(moments),
            "norm_sparsity": ratio(math.sqrt(elements * square_sum), self._abs_sum),
            "max_sparsity": ratio(abs_max - abs_median, abs_median),
        }

    def _by_feature(self, mean_squares: Float[np.ndarray, " width"]) -> dict[str, object]:
        return {
            "feature_rms": np.sqrt(mean_squares).astype(np.float32),
            "feature_abs_max": self._feature_maxima.astype(np.float32),
        }

    def _nothing(self, *, features: bool) -> dict[str, object]:
        scalars = ["rms", "mean", "abs_max", "abs_mean", "abs_median", "kurtosis", "norm_sparsity", "max_sparsity",
                   "l2_norm", "token_norm_sparsity", "max_median_ratio", "feature_kurtosis"]  # fmt: skip
        values: dict[str, object] = dict.fromkeys(scalars, math.nan)
        values["status"] = np.uint8(Status.NOT_MEASURED)
        values["l2_norm_quantile"] = np.full(len(TOKEN_QUANTILES), math.nan)
        if features:
            values |= dict.fromkeys(("feature_rms", "feature_abs_max"), np.full(self.width, math.nan, np.float32))
        return values


def _ratios(numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Quotients, NaN where a denominator is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominators == 0, math.nan, numerators / denominators)
