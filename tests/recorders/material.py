"""Tensors as bytes, observations of arrays, records as dictionaries, and a probe of plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from olmo_dynamics.model import to_tensor
from olmo_dynamics.names import NO_LAYER, Site, TensorInfo
from olmo_dynamics.quantities.declaration import Reads, Record
from olmo_dynamics.recorders import BUILT_IN, Context, Observation, Recorder
from olmo_dynamics.recorders.experts.expert_geometry import ExpertGeometryRecorder
from olmo_dynamics.recorders.head_spectra import HeadSpectraRecorder
from olmo_dynamics.recorders.inside.attention import AttentionRecorder
from olmo_dynamics.recorders.inside.in_context import InContextRecorder
from olmo_dynamics.recorders.inside.induction import InductionRecorder
from olmo_dynamics.recorders.inside.lens import LensRecorder
from olmo_dynamics.recorders.inside.ngram import NgramRecorder
from olmo_dynamics.recorders.inside.ngram_samples import NgramSampleRecorder
from olmo_dynamics.recorders.inside.writes import WritesRecorder
from olmo_dynamics.recorders.tasks.task_scores import TaskRecorder

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
LAYERS_AT_MOST = 8
OF_A_MODEL = (
    ExpertGeometryRecorder, HeadSpectraRecorder, AttentionRecorder, WritesRecorder, LensRecorder, InductionRecorder,
    InContextRecorder, NgramRecorder, NgramSampleRecorder, TaskRecorder,
)  # fmt: skip
"""Recorders that need a model beside the values of a site or a tensor; they have tests of their own."""

OF_VALUES = tuple(kind for kind in BUILT_IN if kind not in OF_A_MODEL)
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def encode(values, dtype="F32", name=Q_PROJ):
    """The bytes and the description of a tensor, and its elements as they are stored, in float64."""
    tensor = torch.from_numpy(np.array(values, np.float64)).to(DTYPES[dtype])
    raw = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
    return raw, TensorInfo(name, dtype, tuple(tensor.shape), "f", 0, raw.nbytes), tensor.double().numpy()


def shown(site, layer, x, mask=None, rows=None, positions=None, columns=None, dtype=None, **others):
    """The observation of an array [batch, positions, width]; of whole sequences and of real tokens, unless given."""
    x = torch.as_tensor(x) if dtype is None else torch.as_tensor(x).to(dtype)
    batch, length, width = x.shape
    mask = np.ones((batch, length), dtype=bool) if mask is None else mask
    at = {
        "rows": rows or slice(0, batch),
        "positions": positions or slice(0, length),
        "columns": columns or slice(0, width),
    }
    return Observation(values=x, site=site, layer=layer, mask=mask, **at, **others)


def shown_tensor(raw, info, *, reads=Reads.WEIGHTS, **others):
    """The observation of a tensor of a checkpoint, or of a named one in its place."""
    values = raw if isinstance(raw, torch.Tensor) else to_tensor(raw, info)
    return Observation(values=values, reads=reads, layer=info.layer, tensor=info, **others)


def everything(recorder: Recorder) -> list[Record]:
    """The records of all layers that there may be, and of the whole pass."""
    layers = range(NO_LAYER, LAYERS_AT_MOST)
    return [*(record for layer in layers for record in recorder.finish_layer(layer)), *recorder.finish()]


def started(recorder: Recorder, probe=None, *, sites=tuple(Site), layers=LAYERS_AT_MOST, config=None) -> Recorder:
    """A copy of a recorder that is told of a pass."""
    return recorder.start(Context(config, probe, sites, layers))


def by_name(records: list[Record]) -> dict[str, np.ndarray]:
    return {record.quantity.name: record.values for record in records}


@dataclass
class Tokens:
    """A probe of plain arrays."""

    token_ids: np.ndarray
    tokenizer_size: int
    mask: np.ndarray | None = None
    domain: np.ndarray | None = None
    domains: tuple[str, ...] = ("text",)
    token_bytes: np.ndarray | None = None
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.token_ids.shape
        if self.mask is None:
            self.mask = np.ones(self.shape, dtype=bool)
        if self.domain is None:
            self.domain = np.zeros(len(self.token_ids), np.int64)
        if self.token_bytes is None:
            self.token_bytes = np.full(self.shape, -1)
