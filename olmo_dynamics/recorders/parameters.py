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

from olmo_dynamics.names import Record, Status, TensorInfo
from olmo_dynamics.quantities import QUANTILES, find
from olmo_dynamics.recorders.moments import kurtosis, ratio
from olmo_dynamics.recorders.order import quantiles_of
from olmo_dynamics.recorders.survey import Survey, measurable, survey_tensor


def measure_tensor(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo) -> list[Record]:
    """Every quantity of the group `parameters` for one tensor; none where it is empty or holds no floats.

    Raises:
        CheckpointError: there are more or fewer bytes than the tensor's shape asks for.
    """
    return parameter_records(survey_tensor(raw, info), info) if measurable(info) else []


def parameter_records(found: Survey, info: TensorInfo) -> list[Record]:
    """The records of a tensor that was surveyed already."""
    values = {**_elementwise(found), **_residual(found, info)}
    return [
        Record(find(f"parameters/{name}"), np.asarray(value), {"tensor": info.name}) for name, value in values.items()
    ]


def _elementwise(found: Survey) -> dict[str, object]:
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
        "zero_count": np.int64(found.zero_count),
        "nan_count": np.int64(found.nan_count),
        "inf_count": np.int64(found.inf_count),
        "element_quantile": found.quantiles,
        "status": np.uint8(_status(found, abs_median)),
    }


def _status(found: Survey, abs_median: float) -> Status:
    if not found.finite:
        return Status.NONFINITE
    varied = found.moments[2] ** 2 > 0
    return Status.MEASURED if varied and abs_median > 0 else Status.DEGENERATE


def _residual(found: Survey, info: TensorInfo) -> dict[str, object]:
    """Norms along and across the residual stream; nothing for a tensor that does not touch it."""
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
