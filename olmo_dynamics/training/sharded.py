"""Models whose tensors several processes hold in parts, as FSDP2 shards them: gathered whole for the first process.

All processes must call these functions, in the same order. A single process whose model is whole pays for nothing.

>>> weights = whole_tensors(model.state_dict())  # doctest: +SKIP
>>> from_first_process(lambda: len(weights))  # doctest: +SKIP
147
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn

from olmo_dynamics.errors import TrainingError

Answer = TypeVar("Answer")


def is_sharded(model: nn.Module) -> bool:
    """True if processes hold parts of some of the model's parameters."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def is_first() -> bool:
    """True for the process that keeps what is gathered."""
    return not dist.is_initialized() or dist.get_rank() == 0


def whole_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather tensors one after another, on the CPU; processes other than the first keep none of them."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        gather = getattr(tensor, "full_tensor", None)  # of a DTensor
        whole = tensor.detach() if gather is None else gather().detach()
        if is_first():
            kept[name] = whole.cpu()
    return kept


def from_first_process(work: Callable[[], Answer]) -> Answer:
    """The answer of the first process, which alone does the work, in every process; the others wait for it.

    Raises:
        TrainingError: the first process failed, and raises its own error there.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    told: list[object] = [None, None]
    if is_first():
        try:
            told[0] = answer = work()
        except BaseException as error:
            dist.broadcast_object_list([None, f"{type(error).__name__}: {error}"])
            raise
        dist.broadcast_object_list(told)
        return answer
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise TrainingError(f"process 0 could not record: {told[1]}")
    return told[0]  # type: ignore[return-value]  # the other process's, of the same work
