"""From stored bytes to a model's weights.

>>> import numpy as np
>>> from olmo_dynamics.names import TensorInfo
>>> raw = np.array([1.0, -2.0], dtype=np.float32).view(np.uint8)
>>> to_tensor(raw, TensorInfo("model.norm.weight", "F32", (2,), "model.safetensors", 0, 8))
tensor([ 1., -2.])
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from olmo_dynamics.errors import CheckpointError, ShapeError
from olmo_dynamics.model.build import expected_shapes
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.names import TensorInfo

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""torch's dtype for safetensors' name of it."""

_SHOWN = 3  # names of each kind in an error


def to_tensor(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo) -> Tensor:
    """Stored bytes seen as a tensor of the stored dtype and shape: a view, never to be written to.

    Bytes that do not start at a multiple of the element size are copied: kernels may not read them where they lie.

    Raises CheckpointError for a dtype that torch lacks, or a byte count that contradicts the shape.
    """
    dtype = TORCH_DTYPES.get(info.dtype)
    if dtype is None:
        raise CheckpointError(
            f"{info.name} must be one of {', '.join(TORCH_DTYPES)}; got {info.dtype}: convert the checkpoint"
        )
    wanted = info.size * dtype.itemsize
    if raw.nbytes != wanted:
        raise CheckpointError(
            f"{info.name} {list(info.shape)} {info.dtype} must be {wanted} bytes; got {raw.nbytes}: "
            "fetch the checkpoint again"
        )
    aligned = raw if raw.ctypes.data % dtype.itemsize == 0 else raw.copy()
    return from_dlpack(aligned).view(dtype).view(info.shape)


def check_shapes(config: ModelConfig, tensors: Mapping[str, TensorInfo] | Mapping[str, Tensor]) -> None:
    """Nothing, if the tensors are those that the config promises.

    A head stored beside tied embeddings is let pass: some writers keep both.

    Raises ShapeError naming the first few tensors that are missing, unexpected or of another shape.
    """
    wanted = expected_shapes(config)
    came = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if config.tied_embeddings and came.get("lm_head.weight") == (config.vocab_size, config.hidden_size):
        del came["lm_head.weight"]
    complaints = [
        _complaint("missing", [f"{name} {list(wanted[name])}" for name in wanted if name not in came]),
        _complaint("unexpected", [f"{name} {list(came[name])}" for name in came if name not in wanted]),
        _complaint(
            "mis-shaped",
            [
                f"{name} wanted {list(shape)} got {list(came[name])}"
                for name, shape in wanted.items()
                if came.get(name, shape) != shape
            ],
        ),
    ]
    found = "; ".join(complaint for complaint in complaints if complaint)
    if found:
        raise ShapeError(
            f"tensors must have the {len(wanted)} names and shapes that config.json implies; {found}: "
            "check that config.json and weights are of one revision"
        )


def load_model_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, device: torch.device | str = "cpu") -> None:
    """Fills a model, in place, with its own copy of the weights, in the model's dtype.

    A copy because stored bytes may be read-only memory, which an optimiser or an edit would crash on. A tied model
    takes no head, so one that is stored beside the embedding is left aside.

    Raises ShapeError when the tensors are not those of the model's state dict.
    """
    wanted = model.state_dict()
    odd = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name].shape]
    if odd:
        raise ShapeError(
            f"weights must match the model's {len(wanted)} parameters; got none of the right shape for "
            f"{_listed(odd)}: call check_shapes to see what came"
        )
    copies = {name: tensors[name].to(device, value.dtype, copy=True) for name, value in wanted.items()}
    model.load_state_dict(copies, assign=True)


def _complaint(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind}: {_listed(names)}" if names else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
