"""Statistics of weights: one tensor's bytes in, records of the group `parameters` out.

    >>> raw = np.full(8, 0.5, np.float32).view(np.uint8)
    >>> records = measure_tensor(raw, TensorInfo("model.norm.weight", "F32", (8,), "f", 0, 32))
    >>> next(float(record.values) for record in records if record.quantity.name == "rms")
    0.5

Sums accumulate in float64 and quantiles are exact, whatever the stored dtype. Non-finite weights follow IEEE rules as in
NumPy: a NaN makes sums, moments, extremes and quantiles NaN, an infinity makes the L2 norm infinite; counts stay right.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt8

from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities import GROUPS, QUANTILES, find
from olmo_dynamics.quantities.declaration import Reads, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.kernels.moments import kurtosis, ratio
from olmo_dynamics.recorders.kernels.order_statistics import quantiles_of
from olmo_dynamics.recorders.kernels.tensor_stats import TensorStats, measurable, tensor_stats


def measure_tensor(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo) -> list[Record]:
    """Every quantity of the group `parameters` for one tensor; no record if it is empty or holds no floats.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape needs.
    """
    return parameter_records(tensor_stats(raw, info), info) if measurable(info) else []


def parameter_records(found: TensorStats, info: TensorInfo) -> list[Record]:
    """The records of a tensor whose statistics are known already."""
    values = {**_elementwise(found), **_residual(found, info)}
    return [
        Record(find(f"parameters/{name}"), np.asarray(value), {"tensor": info.name}) for name, value in values.items()
    ]


class ParameterRecorder(Recorder):
    """The group `parameters`: statistics of every tensor."""

    group = GROUPS["parameters"]
    reads = Reads.WEIGHTS

    def __init__(self) -> None:
        self._records: list[Record] = []

    def observe(self, seen: Observation) -> None:
        """Add one tensor."""
        assert seen.tensor is not None
        self._records += parameter_records(seen.stats, seen.tensor)

    def finish(self) -> list[Record]:
        """The records of all tensors."""
        return self._records


def _elementwise(found: TensorStats) -> dict[str, object]:
    n = found.count
    l2_norm = math.sqrt(found.square_sum)
    abs_max = max(abs(found.smallest), abs(found.largest))
    abs_median = found.magnitude_quantile(0.5)
    return {
        "l2_norm": l2_norm,
        "rms": math.sqrt(found.square_sum / n),
        "mean": found.moments[1],
        "std": math.sqrt(found.moments[2] / n),
        "min": found.smallest,
        "max": found.largest,
        "abs_max": abs_max,
        "abs_mean": found.abs_sum / n,
        "abs_median": abs_median,
        "kurtosis": kurtosis(found.moments),
        "norm_sparsity": ratio(math.sqrt(n) * l2_norm, found.abs_sum),
        "max_sparsity": ratio(abs_max - abs_median, abs_median),
        "tail_ratio": ratio(found.magnitude_quantile(0.999), abs_median),
        "element_count": np.int64(n),
        "zero_count": np.int64(found.zero_count),
        "nan_count": np.int64(found.nan_count),
        "inf_count": np.int64(found.inf_count),
        "element_quantile": found.quantiles,
        "status": np.uint8(_status(found, abs_median)),
    }


def _status(found: TensorStats, abs_median: float) -> Status:
    if not found.finite:
        return Status.NONFINITE
    varied = found.moments[2] ** 2 > 0
    return Status.MEASURED if varied and abs_median > 0 else Status.DEGENERATE


def _residual(found: TensorStats, info: TensorInfo) -> dict[str, object]:
    """Norms along and across the residual stream; empty for a tensor that does not touch it."""
    if info.residual_axis is None:
        return {}
    features, vectors = found.axes.row_squares, found.axes.column_squares
    if len(info.shape) == 1 or info.residual_axis == 1:  # a norm's gains are one vector, laid out as one row
        features, vectors = vectors, features
    with np.errstate(over="ignore"):
        return {
            "residual_feature_l2": np.sqrt(features).astype(np.float32),
            "residual_vector_l2_quantile": quantiles_of(QUANTILES, np.sqrt(vectors)),
        }
