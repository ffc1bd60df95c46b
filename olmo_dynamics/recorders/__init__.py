"""What we measure: statistics of weights as they stream past, and of activations at named sites.

Weights come as bytes with a `TensorInfo`, activations as tensors with a `Site` and a layer; `Record`s come out. Recorders of
activations merge: two that saw two halves of the tokens give what one would that saw them all.

    >>> import numpy as np
    >>> from olmo_dynamics.names import TensorInfo
    >>> raw = np.zeros(4, np.float32).view(np.uint8)
    >>> len(measure_tensor(raw, TensorInfo("model.norm.weight", "F32", (4,), "f", 0, 16))) > 0
    True
"""

from olmo_dynamics.recorders.activations import ActivationRecorder
from olmo_dynamics.recorders.device_survey import survey_on_device
from olmo_dynamics.recorders.embeddings import embedding_records, measure_embedding
from olmo_dynamics.recorders.forward import FORWARD_GROUPS, ForwardRecorders
from olmo_dynamics.recorders.llmint8 import OutlierFeatures, llmint8_rule, outlier_features
from olmo_dynamics.recorders.losses import LossRecorder, ProbeTokens
from olmo_dynamics.recorders.massive import MassiveRecorder
from olmo_dynamics.recorders.outliers import OutlierRecorder
from olmo_dynamics.recorders.parameters import measure_tensor, parameter_records
from olmo_dynamics.recorders.routing import RoutingRecorder, domain_specialisation
from olmo_dynamics.recorders.survey import (
    Partial,
    Survey,
    complete,
    measurable,
    row_blocks,
    survey_rows,
    survey_tensor,
)

__all__ = [
    "FORWARD_GROUPS",
    "ActivationRecorder",
    "ForwardRecorders",
    "LossRecorder",
    "MassiveRecorder",
    "OutlierFeatures",
    "OutlierRecorder",
    "Partial",
    "ProbeTokens",
    "RoutingRecorder",
    "Survey",
    "complete",
    "domain_specialisation",
    "embedding_records",
    "llmint8_rule",
    "measurable",
    "measure_embedding",
    "measure_tensor",
    "outlier_features",
    "parameter_records",
    "row_blocks",
    "survey_on_device",
    "survey_rows",
    "survey_tensor",
]
