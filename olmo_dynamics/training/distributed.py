"""Several processes that train one model: each keeps a part of every weight, and computes a part of every batch.

torch does the work. `torchrun` starts the processes and gives each its rank, FSDP2 shards weights, gradients and moments,
and the state dicts of DCP (`torch.distributed.checkpoint`) scatter and gather a whole state. In a single process all of this
costs nothing.

    $ torchrun --nproc-per-node 2 -m olmo_dynamics fork SOURCE@REVISION --data train.npy --out forks/a --steps 40
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from olmo_dynamics.errors import OlmoDynamicsError, OptionError, TrainingError
from olmo_dynamics.model import LanguageModel, build_model
from olmo_dynamics.settings import launched
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.execution import Execution, trainable
from olmo_dynamics.training.objective import BatchShare, LossTerms, objective
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, build_optimizer, move_state

PATIENCE = timedelta(minutes=30)
"""Time that processes wait for one that evaluates, records or writes a checkpoint before it counts as lost."""

FAILED = "failed"
_AS_FORWARD = "as_forward"


def rank() -> int:
    """This process's number among those of the run; process 0 reports, writes and records."""
    return dist.get_rank() if dist.is_initialized() else 0


def process_count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def open_process_group(device: str | None = None) -> Iterator[torch.device]:
    """The device of this process: `device`, else the CPU; with several processes one GPU each, else the CPU.

    Processes that torchrun started together form a group within. If one fails, all end, and only the first reports the error.

    Raises:
        OptionError: the device does not exist.
        TrainingError: another process is lost.
    """
    launch = launched()
    if launch.processes == 1:
        yield _device(device or "cpu")
        return
    place = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda":
        place = _device(f"cuda:{launch.local_rank}")
        torch.cuda.set_device(place)
    meeting, own, processes = _meeting()
    store = PrefixStore(f"run {meeting.add(f'runs of {own}', 1)}", meeting)  # a program may train more than once
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=own, world_size=processes, timeout=PATIENCE)
    try:
        yield place
    except (Exception, KeyboardInterrupt) as error:
        _end(error, store)
    finally:
        dist.destroy_process_group()


def check_process_count(recipe: Recipe, processes: int) -> None:
    """Check that the recipe can be shared by so many processes.

    Raises:
        OptionError: a batch does not divide by the processes, or the recipe has several workers or compilation.
    """
    if processes == 1:
        return
    for sequences in (recipe.sequences_per_step, *(size for _, size in recipe.batch_growth)):
        if sequences % processes:
            raise OptionError(
                f"batches of {processes} processes must divide by {processes} (got {sequences} sequences): choose another "
                "--batch, or another --nproc-per-node"
            )
    if recipe.workers > 1:
        raise OptionError(f"{processes} processes must have 1 worker each (got {recipe.workers}): add --workers 1")
    if recipe.compile:
        raise OptionError(f"{processes} processes cannot use torch.compile: leave --compile out")


def place_state(state: TrainState, recipe: Recipe, place: torch.device) -> TrainState:
    """Move a whole state, the same on every process, to the device, in place; shard it over several processes."""
    if process_count() == 1:
        return move_state(state, place)
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    moments = _in_order(get_optimizer_state_dict(state.model, state.optimizer)) if state.optimizer.state else None
    _shard(state.model, getattr(torch, recipe.dtype), place)
    state.optimizer = build_optimizer(state.model, recipe)
    if moments:
        set_optimizer_state_dict(state.model, state.optimizer, moments, options=_whole())
    return state


def gather_state(state: TrainState, recipe: Recipe) -> TrainState | None:
    """Gather the whole state, on the CPU if it was sharded; None on all ranks but 0. All processes must call this."""
    if process_count() == 1:
        return state
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    moments = None
    if state.optimizer.state:
        moments = get_optimizer_state_dict(state.model, state.optimizer, options=_whole())
    model = gather_model(state.model, device=torch.device("cpu"))
    if model is None:
        return None
    optimizer = build_optimizer(model, recipe)
    if moments:
        set_optimizer_state_dict(model, optimizer, moments)
    return replace(state, model=model, optimizer=optimizer)


def gather_model(model: LanguageModel, *, device: torch.device | None = None) -> LanguageModel | None:
    """Gather the whole model, on its shards' device by default; None on all ranks but 0. All processes must call this."""
    if process_count() == 1:
        return model
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    tensors = get_model_state_dict(model, options=_whole())
    if rank():
        return None
    whole = build_model(model.config, device=device or next(model.parameters()).device)
    whole.load_state_dict(tensors)
    return whole


def as_float(scalar: Tensor) -> float:
    """The number, gathered if it is sharded; then all processes must call this."""
    full_tensor = getattr(scalar, "full_tensor", None)  # of a DTensor
    return float(scalar if full_tensor is None else full_tensor())


@dataclass
class ShardedGradients:
    """Gradients of a sharded model, batch after batch; see `gradients`."""

    execution: Execution
    recipe: Recipe

    def of(self, batch: Batch) -> LossTerms:
        """Compute this process's shard of the gradient of the batch's loss, into every trained `parameter.grad`."""
        share = BatchShare(batch.denominator(self.recipe.mean_over), len(batch))
        own = list(batch.split(len(batch) // process_count()))[rank()].to(self.execution.head.device)
        as_forward: Callable[[Callable[[], Tensor]], Tensor] = getattr(self.execution.model, _AS_FORWARD)
        for parameter in trainable(self.execution.model):
            parameter.grad = None
        parts = []
        for micro in own.split(self.recipe.micro_batch or len(own)):
            terms = as_forward(partial(objective, self.execution, micro, self.recipe, share))
            torch.autograd.backward(terms[0])
            parts.append(terms.detach().double())
        losses = torch.stack(parts).sum(0)
        dist.all_reduce(losses)
        return LossTerms(*losses.tolist())


def _shard(model: LanguageModel, dtype: torch.dtype, place: torch.device) -> None:
    """Shard the model's parameters, block by block; it runs in `dtype`, gradients are summed in float32.

    The head's loss reads a weight that belongs to no block, so the whole objective is registered as a forward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # Inputs stay as they are: rotations are in float32 whatever the dtype of the weights.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(place.type, (process_count(),))
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh, mp_policy=policy)
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)  # losses are divided by the whole batch's count: gradients add up
        part.set_force_sum_reduction_for_comms(True)  # gloo supports no other reduction
    setattr(model, _AS_FORWARD, lambda work: work())
    register_fsdp_forward_method(model, _AS_FORWARD)


def _in_order(moments: dict[str, Any]) -> dict[str, Any]:
    """The same in the order of names. DCP gathers moment after moment, and a safetensors file is read in an order that differs
    from process to process: unsorted, one process's first moment would be joined to another's second."""
    states = {name: dict(sorted(kinds.items())) for name, kinds in sorted(moments["state"].items())}
    return {**moments, "state": states}


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


@cache
def _meeting() -> tuple[Store, int, int]:
    """The store that the processes share for as long as they live, this one's rank, and the number of processes."""
    store, own, processes = next(rendezvous("env://"))
    return store, own, processes


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device must be cpu or cuda (got {name!r})")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device {name} does not exist; torch sees {torch.cuda.device_count()} GPUs: use --device cpu"
        )
    return device


def _end(error: BaseException, store: Store) -> NoReturn:
    """Raise or report the error if this process is the first to fail, else exit silently."""
    code = 130 if isinstance(error, KeyboardInterrupt) else 2
    if not _is_first(store):
        time.sleep(1)  # torchrun ends all when one has exited, even the one that is about to report
        raise SystemExit(code) from None
    if _is_lost(error):
        error = TrainingError(
            "another process of this run was lost, or did not answer for half an hour: saved checkpoints are kept; run the "
            "same command again to resume"
        )
    if rank() and isinstance(error, OlmoDynamicsError):
        sys.stderr.write(f"olmo-dyn: process {rank()}: {error}\n")
        raise SystemExit(code) from None
    raise error


def _is_first(store: Store) -> bool:
    try:
        return bool(store.add(FAILED, 1) == 1)
    except RuntimeError:  # the store ended with the process that kept it
        return False


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
