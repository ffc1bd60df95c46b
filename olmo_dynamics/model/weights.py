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
from olmo_dynamics.model.heads import HEAD, is_other_head
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
"""The torch dtype of each safetensors dtype."""

_SHOWN = 3  # names of each kind in an error


def to_tensor(raw: UInt8[np.ndarray, " bytes"], info: TensorInfo) -> Tensor:
    """View stored bytes as a tensor of the stored dtype and shape; never write to it.

    Bytes that do not start at a multiple of the element size are copied, because kernels may not read them in place.

    Raises:
        CheckpointError: torch lacks the dtype, or the number of bytes contradicts the shape.
    """
    dtype = TORCH_DTYPES.get(info.dtype)
    if dtype is None:
        raise CheckpointError(
            f"{info.name} must be one of {', '.join(TORCH_DTYPES)} (got {info.dtype}); convert the checkpoint"
        )
    nbytes = info.size * dtype.itemsize
    if raw.nbytes != nbytes:
        raise CheckpointError(
            f"{info.name} {list(info.shape)} {info.dtype} must be {nbytes} bytes (got {raw.nbytes}); "
            "fetch the checkpoint again"
        )
    aligned = raw if raw.ctypes.data % dtype.itemsize == 0 else raw.copy()
    return from_dlpack(aligned).view(dtype).view(info.shape)


def check_shapes(config: ModelConfig, tensors: Mapping[str, TensorInfo] | Mapping[str, Tensor]) -> None:
    """Check that the tensors are those of the config.

    Tensors that change nothing in the forward pass are accepted: a head stored in addition to tied embeddings, another
    head beside the trunk, and the frequencies of RoPE, which follow from the config.

    Raises:
        ShapeError: tensors are missing, unexpected or of another shape; the message names the first few.
    """
    expected = expected_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if config.tied_embeddings and found.get("lm_head.weight") == (config.vocab_size, config.hidden_size):
        del found["lm_head.weight"]
    found = {name: shape for name, shape in found.items() if name in expected or not _is_beside(name, config)}
    complaints = [
        _complaint("missing", [f"{name} {list(expected[name])}" for name in expected if name not in found]),
        _complaint("unexpected", [f"{name} {list(found[name])}" for name in found if name not in expected]),
        _complaint(
            "mis-shaped",
            [
                f"{name} must be {list(shape)}, got {list(found[name])}"
                for name, shape in expected.items()
                if found.get(name, shape) != shape
            ],
        ),
    ]
    problems = "; ".join(complaint for complaint in complaints if complaint)
    if problems:
        raise ShapeError(
            f"tensors must have the {len(expected)} names and shapes of config.json (got {problems}); "
            "check that config.json and the weights are of one revision"
        )


def load_model_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, device: torch.device | str = "cpu") -> None:
    """Fill a model, in place, with its own copy of the weights, in the model's dtype.

    The weights are copied because stored bytes may be read-only memory, on which an optimiser or an edit would crash. A
    tied model has no head, so a head stored in addition to the embedding is ignored.

    Raises:
        ShapeError: the tensors are not those of the model's state dict.
    """
    state = model.state_dict()
    odd = [name for name in state if name not in tensors or tensors[name].shape != state[name].shape]
    if odd:
        raise ShapeError(
            f"weights must match the model's {len(state)} parameters (got none of the right shape for "
            f"{_listed(odd)}); call check_shapes for details"
        )
    copies = {name: tensors[name].to(device, value.dtype, copy=True) for name, value in state.items()}
    model.load_state_dict(copies, assign=True)


def _is_beside(name: str, config: ModelConfig) -> bool:
    """True for a tensor that the forward pass does not need, and that is known to change nothing in it."""
    outside = not config.has_head and not name.startswith("model.") and name != HEAD
    return is_other_head(name) or outside or name.endswith(".rotary_emb.inv_freq")


def _complaint(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind}: {_listed(names)}" if names else ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
