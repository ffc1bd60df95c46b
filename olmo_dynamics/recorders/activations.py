"""Statistics of activations at named sites, gathered over batches of tokens.

    >>> import torch
    >>> from olmo_dynamics.recorders.base import Observation
    >>> recorder = ActivationRecorder()
    >>> mask = np.ones((1, 2), dtype=bool)
    >>> recorder.observe(Observation(values=torch.ones(1, 2, 4), site=Site.RESIDUAL_OUT, layer=0, mask=mask))
    >>> values = {record.quantity.name: record.values for record in recorder.finish_layer(0)}
    >>> float(values["l2_norm"]), float(values["norm_sparsity"])
    (2.0, 1.0)

First positions, where attention sinks and massive activations sit, are gathered apart from the rest: the quantities named
`_without_first` are of the rest, the others of both merged. Elements are float32 (float64 is accepted), sums float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64, UInt

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS, TOKEN_QUANTILES, WITHOUT_FIRST, find
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.accumulators import CodeCounts, FloatSums
from olmo_dynamics.recorders.kernels.bfloat16.token_pass import (
    ABSOLUTES,
    MAX_MEDIANS,
    SPARSITIES,
    CodeSums,
    pass_over_codes,
)
from olmo_dynamics.recorders.kernels.elements import Tally
from olmo_dynamics.recorders.kernels.moments import kurtosis, ratio
from olmo_dynamics.recorders.kernels.order_statistics import quantiles_of
from olmo_dynamics.recorders.kernels.packed.float_tokens import FloatTokenSums, add_float_tokens
from olmo_dynamics.recorders.kernels.token_codes import TokenCodes, values_of
from olmo_dynamics.recorders.kernels.tokens import (
    LARGEST,
    LOWER_MEDIAN,
    UPPER_MEDIAN,
    TokenStats,
    TokenTotals,
    add_tokens,
)

_LEAVING = frozenset({Site.EMBEDDING, Site.RESIDUAL_OUT})
"""Sites of the stream that enters the next block: `residual_in` is the same tensor, and never read itself."""


class ActivationRecorder(Recorder):
    """The group `activations`: every site of activations that the model has.

    Two recorders that saw different tokens merge to one that saw them all, up to rounding.
    """

    group = GROUPS["activations"]
    sites = frozenset(site for site in Site if site.is_measured)

    def __init__(self) -> None:
        self._places: dict[tuple[Site, int], _Place] = {}

    def sites_in(self, available: Sequence[Site]) -> frozenset[Site]:
        """All measured sites that the model has; statistics of `residual_in` are those of the site before."""
        return frozenset(site for site in available if site in self.sites and site is not Site.RESIDUAL_IN)

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The sites measured, and the levels of quantiles over tokens."""
        sites = [site.value for site in self.context.sites if site in self.sites]
        return {"site": sites, "token_quantile": TOKEN_QUANTILES}

    def observe(self, seen: Observation) -> None:
        """Add the tokens of one site, and share the statistics of each."""
        assert seen.site is not None
        tokens = TokenStats.zeros(len(seen.codes.codes), seen.codes.codes.dtype)
        self._place(seen.site, seen.layer, seen.codes.width).add(seen.codes, tokens)
        seen.share_tokens(tokens)

    def merge(self, other: ActivationRecorder) -> None:
        """Add the tokens that `other` saw."""
        for (site, layer), place in other._places.items():
            self._place(site, layer, place.width).merge(place)

    def finish_layer(self, layer: int) -> Iterator[Record]:
        """The records of the layer's sites, and of the stream that enters the next block."""
        for site in [site for site, at in self._places if at == layer]:
            records = list(self._places.pop((site, layer)).records(site, layer))
            yield from records
            if site in _LEAVING and layer + 1 < self.context.layers:
                for each in records:
                    yield Record(each.quantity, each.values, {"site": Site.RESIDUAL_IN.value, "layer": layer + 1})

    def _place(self, site: Site, layer: int, width: int) -> _Place:
        if (site, layer) not in self._places:
            self._places[site, layer] = _Place(width)
        return self._places[site, layer]


class _Place:
    """One site of one layer: its first positions and the rest."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._sums = CodeSums.zeros(width)  # views of both sets' sums, which one pass fills
        of_tokens, feature_squares, _ = self._sums
        self.first = _Gathered(width, of_tokens[0], feature_squares[0])
        self.rest = _Gathered(width, of_tokens[1], feature_squares[1])

    def add(self, seen: TokenCodes, tokens: TokenStats) -> None:
        if seen.codes.itemsize != 2:
            self.first.add(seen.codes, seen.first, tokens)
            self.rest.add(seen.codes, seen.rest, tokens)
            return
        first, rest = pass_over_codes(seen.codes, seen.first, seen.rest, self._sums, tokens)
        self.first.take(seen.first, tokens, first, self._sums.maxima[0])
        self.rest.take(seen.rest, tokens, rest, self._sums.maxima[1])

    def merge(self, other: _Place) -> None:
        self.first.merge(other.first)
        self.rest.merge(other.rest)

    def records(self, site: Site, layer: int) -> Iterable[Record]:
        everything = _Gathered(self.width)
        everything.merge(self.first)
        everything.merge(self.rest)
        values = everything.values(features=site.hidden_wide)
        without_first = self.rest.values(features=site.hidden_wide)
        values |= {name + WITHOUT_FIRST: value for name, value in without_first.items() if name != "status"}
        for name, value in values.items():
            yield Record(find(f"activations/{name}"), np.asarray(value), {"site": site.value, "layer": layer})


class _Gathered:
    """Sums over one set of tokens, from which every quantity follows."""

    def __init__(
        self,
        width: int,
        of_tokens: Float[np.ndarray, " 3"] | None = None,
        feature_squares: Float[np.ndarray, " width"] | None = None,
    ) -> None:
        self.width = width
        self._of_tokens = np.zeros(3) if of_tokens is None else of_tokens
        self._feature_squares = np.zeros(width) if feature_squares is None else feature_squares
        self._maxima: UInt[np.ndarray, " width"] | None = None  # codes of magnitudes
        self._squares: list[tuple[Float[np.ndarray, " tokens"], Int64[np.ndarray, " n"]]] = []  # of rows
        self._elements: CodeCounts | FloatSums | None = None  # by the width of the first codes

    def take(
        self, rows: Int64[np.ndarray, " n"], tokens: TokenStats, found: Tally, maxima: UInt[np.ndarray, " width"]
    ) -> None:
        """Keep what a pass over bfloat16 found beside the sums that it filled."""
        if not len(rows):
            return
        self._elements = self._elements or CodeCounts()
        assert isinstance(self._elements, CodeCounts)
        self._elements.take(found)
        self._maxima = maxima if self._maxima is None else np.maximum(self._maxima, maxima)
        self._squares.append((tokens.squares, rows))

    def add(self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"], tokens: TokenStats) -> None:
        """Add some rows of wider floats."""
        if not len(rows):
            return
        self._elements = self._elements or FloatSums()
        assert isinstance(self._elements, FloatSums)
        self._maxima = np.zeros(self.width, codes.dtype) if self._maxima is None else self._maxima
        magnitudes = self._elements.room_for(codes, rows)
        self._squares.append((tokens.squares, rows))
        if codes.itemsize == 4:
            sums = FloatTokenSums(self._elements.moments, self._feature_squares, self._maxima, self._of_tokens)
            add_float_tokens(codes, rows, magnitudes, sums, tokens)
            self._elements.add(codes, rows, magnitudes)
            return
        totals = TokenTotals(self._elements.moments, self._feature_squares, self._maxima)
        add_tokens(codes, rows, totals, tokens, magnitudes)
        self._elements.add(codes, rows, magnitudes)
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
        self._of_tokens[ABSOLUTES] += float(absolutes.sum())
        self._of_tokens[SPARSITIES] += float(_ratios(math.sqrt(self.width) * norms, absolutes).sum())
        self._of_tokens[MAX_MEDIANS] += float(_ratios(magnitudes[:, LARGEST], medians).sum())

    def merge(self, other: _Gathered) -> None:
        self._of_tokens += other._of_tokens
        self._feature_squares += other._feature_squares
        if other._maxima is not None:
            self._maxima = other._maxima.copy() if self._maxima is None else np.maximum(self._maxima, other._maxima)
        self._squares += other._squares
        if other._elements is not None:
            self._elements = self._elements or type(other._elements)()
            self._elements.merge(other._elements)  # type: ignore[arg-type]  # of one place, so of one dtype

    @property
    def _feature_maxima(self) -> Float[np.ndarray, " width"]:
        return np.zeros(self.width) if self._maxima is None else values_of(self._maxima)

    @property
    def _tokens(self) -> int:
        return sum(len(rows) for _, rows in self._squares)

    def values(self, *, features: bool) -> dict[str, object]:
        """Every quantity by name, and the status; those by feature only if features are the residual stream's."""
        n = self._tokens
        if n == 0:
            return self._not_measured(features=features)
        norms = np.sqrt(np.concatenate([squares[rows] for squares, rows in self._squares]))
        mean_squares = self._feature_squares / n
        values = self._elementwise(n * self.width, float(self._feature_squares.sum()))
        values |= {
            "l2_norm": norms.mean(),
            "l2_norm_quantile": quantiles_of(TOKEN_QUANTILES, norms),
            "token_norm_sparsity": self._of_tokens[SPARSITIES] / n,
            "max_median_ratio": self._of_tokens[MAX_MEDIANS] / n,
            "feature_kurtosis": ratio(float(np.mean(mean_squares**2)), float(np.mean(mean_squares)) ** 2),
        }
        return values | (self._by_feature(mean_squares) if features else {})

    def _elementwise(self, elements: int, square_sum: float) -> dict[str, object]:
        assert self._elements is not None
        abs_sum, sparsity_sum, max_median_sum = map(float, self._of_tokens)
        moments = self._elements.central_moments()
        abs_max = float(self._feature_maxima.max())
        abs_median = min(self._elements.median(), abs_max) if not math.isnan(abs_max) else math.nan
        ratios = (kurtosis(moments), sparsity_sum, max_median_sum, ratio(1.0, abs_median))
        status = Status.MEASURED if np.isfinite(ratios).all() else Status.DEGENERATE
        return {
            "status": np.uint8(status if np.isfinite(moments).all() else Status.NONFINITE),
            "rms": math.sqrt(square_sum / elements),
            "mean": moments[1],
            "abs_max": abs_max,
            "abs_mean": abs_sum / elements,
            "abs_median": abs_median,
            "kurtosis": kurtosis(moments),
            "norm_sparsity": ratio(math.sqrt(elements * square_sum), abs_sum),
            "max_sparsity": ratio(abs_max - abs_median, abs_median),
        }

    def _by_feature(self, mean_squares: Float[np.ndarray, " width"]) -> dict[str, object]:
        return {
            "feature_rms": np.sqrt(mean_squares).astype(np.float32),
            "feature_abs_max": self._feature_maxima.astype(np.float32),
        }

    def _not_measured(self, *, features: bool) -> dict[str, object]:
        scalars = ["rms", "mean", "abs_max", "abs_mean", "abs_median", "kurtosis", "norm_sparsity", "max_sparsity",
                   "l2_norm", "token_norm_sparsity", "max_median_ratio", "feature_kurtosis"]  # fmt: skip
        values: dict[str, object] = dict.fromkeys(scalars, math.nan)
        values["status"] = np.uint8(Status.NOT_MEASURED)
        values["l2_norm_quantile"] = np.full(len(TOKEN_QUANTILES), math.nan)
        if features:
            values |= dict.fromkeys(("feature_rms", "feature_abs_max"), np.full(self.width, math.nan, np.float32))
        return values


def _ratios(numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Quotients; NaN where a denominator is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominators == 0, math.nan, numerators / denominators)
