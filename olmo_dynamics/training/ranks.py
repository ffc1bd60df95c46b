"""Several processes that train one model: each keeps a part of every weight, and takes a part of every batch.

torch does the work. `torchrun` starts the processes and tells each its rank, FSDP2 shards weights, gradients and moments,
and the state dicts of DCP (`torch.distributed.checkpoint`) take a whole state apart and put it together again. Nobody who
asks a single process for its rank, or for the whole of its state, pays anything.

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
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.compute import Compute, trained
from olmo_dynamics.training.objective import Losses, Share, objective
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, build_optimizer, move_state

PATIENCE = timedelta(minutes=30)
"""How long processes wait for one that evaluates, records or writes a checkpoint before they take it for lost."""

FAILED = "failed"
_AS_FORWARD = "as_forward"


def rank() -> int:
    """This process's number among those of the run; 0 tells, writes and records."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def open_ranks(device: str | None = None) -> Iterator[torch.device]:
    """Where this process trains: `device`, else the CPU; of several processes each its own GPU, else the CPU.

    Within, processes that torchrun started together meet. Where one fails, all end, and only the first says why.

    Raises: OptionError for a device that is not there; TrainingError where another process is lost.
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


def check_ranks(recipe: Recipe, processes: int) -> None:
    """See that the recipe can be shared by so many processes.

    Raises: OptionError for a batch that does not divide, threads beside processes, or compilation.
    """
    if processes == 1:
        return
    for sequences in (recipe.sequences_per_step, *(size for _, size in recipe.batch_growth)):
        if sequences % processes:
            raise OptionError(
                f"{processes} processes want batches that divide by {processes}; got {sequences} sequences: choose another "
                "--batch, or another --nproc-per-node"
            )
    if recipe.workers > 1:
        raise OptionError(f"{processes} processes want 1 worker each; got {recipe.workers}: add --workers 1")
    if recipe.compile:
        raise OptionError(f"{processes} processes train without torch.compile; got --compile: leave it out")


def settle(state: TrainState, recipe: Recipe, place: torch.device) -> TrainState:
    """Bring a whole state, the same on every process, to where it is trained, in place: to the device, or taken apart."""
    if count() == 1:
        return move_state(state, place)
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    moments = _in_order(get_optimizer_state_dict(state.model, state.optimizer)) if state.optimizer.state else None
    _shard(state.model, getattr(torch, recipe.dtype), place)
    state.optimizer = build_optimizer(state.model, recipe)
    if moments:
        set_optimizer_state_dict(state.model, state.optimizer, moments, options=_whole())
    return state


def whole_state(state: TrainState, recipe: Recipe) -> TrainState | None:
    """The state in one piece, on the CPU where it was taken apart; None but on rank 0. All processes must ask for it."""
    if count() == 1:
        return state
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    moments = None
    if state.optimizer.state:
        moments = get_optimizer_state_dict(state.model, state.optimizer, options=_whole())
    model = whole_model(state.model, device=torch.device("cpu"))
    if model is None:
        return None
    optimizer = build_optimizer(model, recipe)
    if moments:
        set_optimizer_state_dict(model, optimizer, moments)
    return replace(state, model=model, optimizer=optimizer)


def whole_model(model: LanguageModel, *, device: torch.device | None = None) -> LanguageModel | None:
    """The model in one piece, where its parts are unless told otherwise; None but on rank 0. All processes must ask for it."""
    if count() == 1:
        return model
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    tensors = get_model_state_dict(model, options=_whole())
    if rank():
        return None
    whole = build_model(model.config, device=device or next(model.parameters()).device)
    whole.load_state_dict(tensors)
    return whole


def as_float(scalar: Tensor) -> float:
    """The number, of which each process may have a part; then all must ask for it."""
    full_tensor = getattr(scalar, "full_tensor", None)  # of a DTensor
    return float(scalar if full_tensor is None else full_tensor())


@dataclass
class ShardedGradients:
    """What makes the gradients of a model that is taken apart, batch after batch; see `gradients`."""

    compute: Compute
    recipe: Recipe

    def of(self, batch: Batch) -> Losses:
        """Leave this process's part of the gradient of the batch's loss in every trained `parameter.grad`."""
        share = Share(batch.denominator(self.recipe.mean_over), len(batch))
        own = list(batch.split(len(batch) // count()))[rank()].to(self.compute.head.device)
        as_forward: Callable[[Callable[[], Tensor]], Tensor] = getattr(self.compute.model, _AS_FORWARD)
        for parameter in trained(self.compute.model):
            parameter.grad = None
        parts = []
        for micro in own.split(self.recipe.micro_batch or len(own)):
            terms = as_forward(partial(objective, self.compute, micro, self.recipe, share))
            torch.autograd.backward(terms[0])
            parts.append(terms.detach().double())
        losses = torch.stack(parts).sum(0)
        dist.all_reduce(losses)
        return Losses(*losses.tolist())


def _shard(model: LanguageModel, dtype: torch.dtype, place: torch.device) -> None:
    """Take the model's parameters apart, block by block; run as `dtype`, gradients are summed in float32.

    The head's loss reads a weight that belongs to no block, so the whole objective is registered as a forward pass.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # Inputs stay as they are: rotations are in float32 whatever the weights are in.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(place.type, (count(),))
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh, mp_policy=policy)
        assert isinstance(part, FSDPModule)
        part.set_gradient_divide_factor(1.0)  # losses are divided by the whole batch's count: gradients add up
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
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
    """Where the processes leave each other notes, for as long as they live; this one's rank, and how many there are."""
    store, own, processes = next(rendezvous("env://"))
    return store, own, processes


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device must be cpu or cuda; got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"training wants the device {name}; torch sees {torch.cuda.device_count()} GPUs: use --device cpu"
        )
    return device


def _end(error: BaseException, store: Store) -> NoReturn:
    """Raise or tell the error if this process is the first to fail, else leave without a word."""
    code = 130 if isinstance(error, KeyboardInterrupt) else 2
    if not _is_first(store):
        time.sleep(1)  # torchrun ends all when one has left, also the one that is about to say why
        raise SystemExit(code) from None
    if _is_lost(error):
        error = TrainingError(
            "another process of this run was lost, or did not answer for half an hour: what was saved stays, the same "
            "command goes on"
        )
    if rank() and isinstance(error, OlmoDynamicsError):
        sys.stderr.write(f"olmo-dyn: process {rank()}: {error}\n")
        raise SystemExit(code) from None
    raise error


def _is_first(store: Store) -> bool:
    try:
        return bool(store.add(FAILED, 1) == 1)
    except RuntimeError:  # the store has gone with the process that kept it
        return False


def _is_lost(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
