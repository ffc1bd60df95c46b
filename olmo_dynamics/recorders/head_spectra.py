"""Singular values of each head's slice of the attention projections: the group `head_spectra`.

>>> recorder = HeadSpectraRecorder().start(context)  # doctest: +SKIP
>>> recorder.observe(seen)  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.spectrum import effective_rank, stable_rank

_QUERY_HEADS = ("q_proj", "o_proj")
_KEY_HEADS = ("k_proj", "v_proj")
_COST = 0.5  # for each dimension of a head, over the shared statistics


class HeadSpectraRecorder(Recorder):
    """The group `head_spectra`: spectral norm and ranks of each head's slice of q_proj, k_proj, v_proj and o_proj."""

    group = GROUPS["head_spectra"]
    reads = Reads.WEIGHTS
    by_default = False

    def __init__(self) -> None:
        self._records: list[Record] = []

    def selects(self, info: TensorInfo) -> bool:
        """True for the projections of attention."""
        return info.role in (*_QUERY_HEADS, *_KEY_HEADS) and len(info.shape) == 2

    def cost(self, info: TensorInfo) -> float:
        """Operations per element, for each dimension of a head."""
        return _COST * self.context.config.head_dim if self.context.config is not None else _COST

    def observe(self, seen: Observation) -> None:
        """Add one tensor."""
        config = self.context.config
        assert seen.tensor is not None
        assert config is not None
        slices = _slices(seen.values, seen.tensor.role, config)
        found = {name: np.full(config.heads, np.nan) for name in ("norm", "stable", "effective")}
        status = np.full(config.heads, np.uint8(Status.NOT_MEASURED))
        for head, values in enumerate(slices.double()):
            if not values.isfinite().all():
                status[head] = Status.NONFINITE
                continue
            singular: Float[np.ndarray, " rank"] = torch.linalg.svdvals(values).numpy()
            found["norm"][head] = singular[0]
            found["stable"][head], found["effective"][head] = stable_rank(singular), effective_rank(singular)
            status[head] = Status.MEASURED if singular[0] > 0 else Status.DEGENERATE
        self._records += [
            self.record("head_spectral_norm", found["norm"], tensor=seen.tensor.name),
            self.record("head_stable_rank", found["stable"], tensor=seen.tensor.name),
            self.record("head_effective_rank", found["effective"], tensor=seen.tensor.name),
            self.record("status", status, tensor=seen.tensor.name),
        ]

    def finish(self) -> list[Record]:
        """The records of all tensors."""
        return self._records


def _slices(values: Tensor, role: str, config: ModelConfig) -> Tensor:
    """The part of each head, [heads, head_dim, hidden]; of o_proj transposed, which changes no singular value."""
    heads = config.heads if role in _QUERY_HEADS else config.kv_heads
    rows = values.T if role == "o_proj" else values
    return rows.reshape(heads, -1, rows.shape[1])
