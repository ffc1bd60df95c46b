"""Norms of the rows of an embedding's gradient.

>>> from olmo_dynamics.names import TensorInfo
>>> GradientRowRecorder().selects(TensorInfo("lm_head.weight", "F32", (320, 64), "f", 0, 81920))
True
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder


class GradientRowRecorder(Recorder):
    """The group `gradient_rows`: of the gradient of the whole probe's loss, for the input embedding and the head."""

    group = GROUPS["gradient_rows"]
    reads = Reads.GRADIENTS
    by_default = False

    def __init__(self) -> None:
        self._rows: dict[str, list[Float[np.ndarray, " rows"]]] = {}

    def selects(self, info: TensorInfo) -> bool:
        """True for tensors with a row for each token id."""
        return info.role in ("embed_tokens", "lm_head") and len(info.shape) == 2

    def observe(self, seen: Observation) -> None:
        """Add some rows; they are shown in order."""
        assert seen.tensor is not None
        assert self.context.probe is not None
        if seen.rows == slice(0, len(self.context.probe.token_ids)):
            norms = seen.values.double().norm(dim=1).cpu().numpy()
            self._rows.setdefault(seen.tensor.name, []).append(norms)

    def finish(self) -> list[Record]:
        """The records of both."""
        records = []
        for name, parts in self._rows.items():
            norms = np.concatenate(parts)
            finite = bool(np.isfinite(norms).all())
            records.append(self.record("row_l2", norms.astype(np.float32), embedding=name))
            records.append(
                self.record("status", np.uint8(Status.MEASURED if finite else Status.NONFINITE), embedding=name)
            )
        return records
