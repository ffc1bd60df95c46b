"""Recorders: statistics of weights as they stream past, and of activations at named sites.

A `Recorder` declares a group of quantities, is shown `Observation`s, and gives `Record`s; see `base`. Recorders of
activations merge: two that saw two halves of the tokens give what one would that saw them all.

    >>> import numpy as np
    >>> from olmo_dynamics.names import TensorInfo
    >>> raw = np.zeros(4, np.float32).view(np.uint8)
    >>> len(measure_tensor(raw, TensorInfo("model.norm.weight", "F32", (4,), "f", 0, 16))) > 0
    True
"""

from olmo_dynamics.recorders.activations import ActivationRecorder
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import Context, PlainProbe, ProbeTokens
from olmo_dynamics.recorders.embeddings import EmbeddingRecorder, measure_embedding
from olmo_dynamics.recorders.experts.choice_counts import domain_specialisation
from olmo_dynamics.recorders.kernels.tensor_stats import (
    BlockStats,
    TensorStats,
    block_stats,
    complete,
    measurable,
    row_blocks,
    tensor_stats,
)
from olmo_dynamics.recorders.kernels.tensor_stats_gpu import tensor_stats_on_device
from olmo_dynamics.recorders.llmint8 import OutlierFeatures, llmint8_rule, outlier_features
from olmo_dynamics.recorders.lookup import BUILT_IN, find_recorders
from olmo_dynamics.recorders.losses import LossRecorder
from olmo_dynamics.recorders.optimizer_moments import OptimizerRecorder
from olmo_dynamics.recorders.outliers import OutlierRecorder
from olmo_dynamics.recorders.parameters import ParameterRecorder, measure_tensor
from olmo_dynamics.recorders.recorder_set import RecorderSet
from olmo_dynamics.recorders.routing import RoutingRecorder

__all__ = [
    "BUILT_IN",
    "ActivationRecorder",
    "BlockStats",
    "Context",
    "EmbeddingRecorder",
    "LossRecorder",
    "Observation",
    "OptimizerRecorder",
    "OutlierFeatures",
    "OutlierRecorder",
    "ParameterRecorder",
    "PlainProbe",
    "ProbeTokens",
    "Recorder",
    "RecorderSet",
    "RoutingRecorder",
    "TensorStats",
    "block_stats",
    "complete",
    "domain_specialisation",
    "find_recorders",
    "llmint8_rule",
    "measurable",
    "measure_embedding",
    "measure_tensor",
    "outlier_features",
    "row_blocks",
    "tensor_stats",
    "tensor_stats_on_device",
]


def __dir__() -> list[str]:
    return sorted(__all__)
