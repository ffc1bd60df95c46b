"""Tensors as bytes, records as dictionaries, and a probe of plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from olmo_dynamics.names import Record, TensorInfo

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def encode(values, dtype="F32", name=Q_PROJ):
    """The bytes and the description of a tensor, and its elements as they are stored, in float64."""
    tensor = torch.from_numpy(np.array(values, np.float64)).to(DTYPES[dtype])
    raw = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
    return raw, TensorInfo(name, dtype, tuple(tensor.shape), "f", 0, raw.nbytes), tensor.double().numpy()


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
