"""Norms of gradients: of every tensor and of the stream, window by window; their growth along the depth, and their noise.

>>> recorder = GradientRecorder().start(Context(config=config, probe=probe, layers=16))  # doctest: +SKIP
>>> for seen in gradients_of_windows:  # doctest: +SKIP
...     recorder.observe(seen)
>>> records = recorder.finish()  # doctest: +SKIP

All of a tensor's windows are shown before its gradient of the whole probe. Squares are summed in float64. Short
summaries of the windows' gradients are held until then, for the products of two windows that the noise scale's interval needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from olmo_dynamics.names import NO_LAYER, Site, TensorInfo
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Group, Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.gradients.growth import Growth
from olmo_dynamics.recorders.gradients.noise_scale import FEWEST_WINDOWS, noise_scale
from olmo_dynamics.recorders.gradients.window_products import WindowProducts

_ACTIVATION = "activation"


class GradientRecorder(Recorder):
    """The groups `gradients` and `gradient_stream`."""

    group = GROUPS["gradients"]
    reads = Reads.GRADIENTS
    sites = frozenset({Site.EMBEDDING, Site.RESIDUAL_OUT})
    by_default = False

    def __init__(self) -> None:
        self._squares: dict[str, Float[np.ndarray, " windows"]] = {}
        self._probe_squares: dict[str, float] = {}
        self._norms: dict[int, float] = {}
        self._tokens: dict[int, int] = {}

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that follow from one backward pass."""
        return self.group, GROUPS["gradient_stream"]

    def attributes(self) -> Mapping[str, str | int | float]:
        """The dtype that gradients are computed in, whatever that of the forward pass."""
        return {"compute_dtype": "float32"}

    def selects(self, info: TensorInfo) -> bool:
        """True for every tensor."""
        return True

    def begin(self) -> None:
        """Make room for each window's sums."""
        self._growth = Growth(self.context.layers)
        if self.context.probe is not None:
            self._products = WindowProducts(len(self._counts))

    def observe(self, seen: Observation) -> None:
        """Add one window's gradient, or the whole probe's, of a tensor; or that of a stream."""
        if seen.tensor is None:
            self._add_stream(seen)
            return
        name = seen.tensor.name
        square = _square(seen.values)
        if seen.rows.stop - seen.rows.start == 1:
            squares = self._squares.setdefault(name, np.zeros(len(self._counts)))
            squares[seen.rows.start] += square
            if (self._counts > 0).sum() >= FEWEST_WINDOWS:
                self._products.add(name, seen.rows.start, seen.values)
        if seen.rows == slice(0, len(self._counts)):
            self._probe_squares[name] = self._probe_squares.get(name, 0.0) + square
            self._products.close(name)

    def finish_layer(self, layer: int) -> Iterator[Record]:
        """The gradient with respect to the stream that leaves a layer."""
        group = GROUPS["gradient_stream"]
        if layer in self._norms:
            norm = self._norms.pop(layer) / self._tokens.pop(layer)
            yield Record(group["l2_norm"], np.asarray(norm), {"layer": layer})
            yield Record(group["status"], np.asarray(_status(norm)), {"layer": layer})

    def finish(self) -> Iterator[Record]:
        """The norms of every tensor, their totals, growth exponents and the noise scale."""
        if self.context.probe is None or not self._counts.any():
            return
        kept = self._counts > 0
        for name, squares in self._squares.items():
            mean, error = _mean_and_error(np.sqrt(squares[kept]))
            yield self.record("l2_norm", mean, tensor=name)
            yield self.record("l2_norm_se", error, tensor=name)
            yield self.record("probe_l2_norm", math.sqrt(self._probe_squares[name]), tensor=name)
            yield self.record("status", np.uint8(_status(mean)), tensor=name)
        squares = np.sum(list(self._squares.values()), axis=0)[kept] if self._squares else np.zeros(0)
        if len(squares):
            yield from self._totals(squares, sum(self._probe_squares.values()))
        for name, exponent in self._growth.exponents().items():
            yield self.record(name, exponent)

    def _totals(self, squares: Float[np.ndarray, " windows"], probe_square: float) -> Iterator[Record]:
        mean, error = _mean_and_error(np.sqrt(squares))
        yield self.record("total_l2_norm", mean)
        yield self.record("total_l2_norm_se", error)
        yield self.record("total_probe_l2_norm", math.sqrt(probe_square))
        kept = self._counts > 0
        found = noise_scale(probe_square, squares, self._counts[kept], self._products.gram[np.ix_(kept, kept)])
        yield self.record("noise_square", found.square)
        yield self.record("noise_trace", found.trace)
        yield self.record("noise_scale", found.scale)
        yield self.record("noise_scale_low", found.low)
        yield self.record("noise_scale_high", found.high)
        yield self.record("noise_status", np.uint8(found.status))

    @cached_property
    def _counts(self) -> Int[np.ndarray, " windows"]:
        """The scored tokens of each window."""
        assert self.context.probe is not None
        mask = self.context.probe.mask
        counts: np.ndarray = (mask[:, :-1] & mask[:, 1:]).sum(axis=1)
        return counts

    def _add_stream(self, seen: Observation) -> None:
        gradients = seen.real
        layer = NO_LAYER if seen.site is Site.EMBEDDING else seen.layer
        norms = gradients.double().norm(dim=1)
        self._norms[layer] = self._norms.get(layer, 0.0) + float(norms.sum())
        self._tokens[layer] = self._tokens.get(layer, 0) + len(norms)
        if seen.site is Site.RESIDUAL_OUT:
            activations = seen.beside[_ACTIVATION]
            real = torch.tensor(seen.mask.reshape(-1), device=activations.device)
            self._growth.add(layer, activations.reshape(-1, activations.shape[-1])[real], gradients)


def _square(values: Tensor) -> float:
    """The sum of squares, in float64."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _mean_and_error(values: Float[np.ndarray, " windows"]) -> tuple[float, float]:
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return float(values.mean()), error


def _status(value: float) -> int:
    return int(Status.MEASURED if math.isfinite(value) else Status.NONFINITE)
