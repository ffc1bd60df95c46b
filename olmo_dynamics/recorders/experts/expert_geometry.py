"""Likeness of a layer's experts: cosines between their matrices, and between the router's rows.

    >>> identity = likeness(np.eye(3))
    >>> identity.mean_cosine, round(identity.effective_experts, 9)
    (0.0, 3.0)

An expert comes after another, so the bytes of a layer's experts are kept until all of one matrix are there. Dot products
are float32 over 4,096 elements, and float64 over these sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from olmo_dynamics.names import NO_EXPERT, NO_LAYER, TensorInfo
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder

ROUTER = "router"
"""The label of the router's rows, one for each expert."""

MATRICES = (ROUTER, "gate_proj", "up_proj", "down_proj")
"""The labels of the axis `matrix`."""

_ROUTER_ROLE = "gate"
_AT_ONCE = 4096


class ExpertGeometryRecorder(Recorder):
    """The group `experts`, of models with experts."""

    group = GROUPS["experts"]
    reads = Reads.WEIGHTS
    by_default = False

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], dict[int, Tensor]] = {}
        self._records: list[Record] = []

    def selects(self, info: TensorInfo) -> bool:
        """True for the matrices of experts, and the router's."""
        return info.layer != NO_LAYER and (_is_of_expert(info) or info.role == _ROUTER_ROLE)

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The matrices; the experts, and the experts again as partners."""
        return {"matrix": MATRICES, "expert": range(self._count), "partner": range(self._count)}

    def kept_bytes(self) -> int:
        """The experts of one layer, at most as float32."""
        config = self.context.config
        if config is None or config.experts is None:
            return 0
        return 3 * 4 * self._count * config.hidden_size * config.intermediate_size

    def cost(self, info: TensorInfo) -> float:
        """A product with every other expert for each element."""
        return 0.02 * self._count

    def observe(self, seen: Observation) -> None:
        """Keep an expert's matrix until all of its layer are there, or compare the router's rows."""
        assert seen.tensor is not None
        info = seen.tensor
        if not _is_of_expert(info):
            self._records += self._measured(seen.layer, ROUTER, list(seen.values.detach().cpu()))
            return
        kept = self._kept.setdefault((info.layer, info.role), {})
        kept[info.expert] = seen.values.detach().to("cpu", copy=True)
        if len(kept) == self._count:
            del self._kept[info.layer, info.role]
            self._records += self._measured(info.layer, info.role, [kept[expert] for expert in range(self._count)])

    def finish(self) -> list[Record]:
        """The records of all layers; a matrix of which some expert was not read has none."""
        return self._records

    def _measured(self, layer: int, matrix: str, of_experts: Sequence[Tensor]) -> Iterator[Record]:
        found = likeness(dot_products([each.reshape(-1) for each in of_experts]))
        at: dict[str, str | int | float] = {"layer": layer, "matrix": matrix}
        yield self.record("status", np.uint8(found.status), **at)
        if found.status is Status.NONFINITE:
            return
        yield self.record("cosine", found.cosines.astype(np.float32), **at)
        for name in ("mean_cosine", "largest_cosine", "effective_experts"):
            yield self.record(name, getattr(found, name), **at)

    @property
    def _count(self) -> int:
        experts = self.context.config.experts if self.context.config is not None else None
        return 1 if experts is None else experts.count


@dataclass(frozen=True)
class Likeness:
    """Cosines of all pairs, and what follows from them; NaN where some expert has no direction."""

    status: Status
    cosines: Float64[np.ndarray, "experts experts"]
    mean_cosine: float = math.nan
    largest_cosine: float = math.nan
    effective_experts: float = math.nan


def dot_products(vectors: Sequence[Tensor]) -> Float64[np.ndarray, "vectors vectors"]:
    """The dot products of all pairs of vectors of one length, in float64 where they are float64."""
    dtype = torch.promote_types(vectors[0].dtype, torch.float32)
    total = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for start in range(0, len(vectors[0]), _AT_ONCE):
        part = torch.stack([vector[start : start + _AT_ONCE] for vector in vectors]).to(dtype)
        total += part @ part.T
    return total.numpy()


def likeness(dots: Float[np.ndarray, "experts experts"]) -> Likeness:
    """The cosines of experts, and their effective number, from their dot products."""
    if not np.isfinite(dots).all():
        return Likeness(Status.NONFINITE, np.full(dots.shape, math.nan))
    norms = np.sqrt(np.diagonal(dots))
    scale = np.outer(norms, norms)
    cosines = np.divide(dots, scale, out=np.full(dots.shape, math.nan), where=scale > 0).clip(-1, 1)
    alone = cosines.copy()
    np.fill_diagonal(alone, math.nan)
    pairs = cosines[np.triu_indices(len(cosines), 1)]
    if not (norms > 0).all() or not len(pairs):
        return Likeness(Status.DEGENERATE, alone)
    shares = np.linalg.eigvalsh(cosines).clip(0) / len(cosines)
    some = shares[shares > 0]
    effective = math.exp(-float((some * np.log(some)).sum()))
    return Likeness(Status.MEASURED, alone, float(pairs.mean()), float(pairs.max()), effective)


def _is_of_expert(info: TensorInfo) -> bool:
    return info.expert != NO_EXPERT and info.role in MATRICES
