"""The optimiser's state of one revision: its tensors as they are fetched, and the numbers beside them.

>>> state = read_state(checkpoint)  # doctest: +SKIP
>>> state.name, state.moments_of("model.norm.weight")[0].name  # doctest: +SKIP
('AdamW', 'model.norm.weight.exp_avg')

| written by | files |
|---|---|
| this library | `training_state/optimizer.safetensors`, `state.json` |
| OLMo, OLMo-core | those of their formats |
| transformers' Trainer | `optimizer.pt` |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.checkpoints.formats import OptimizerState
from olmo_dynamics.checkpoints.formats.written_state import WRITTEN_FILE, written_state
from olmo_dynamics.checkpoints.tensors import Span, parse_object
from olmo_dynamics.errors import CheckpointError, UnknownModelError
from olmo_dynamics.model import to_tensor
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities.declaration import Reads
from olmo_dynamics.recorders import Observation
from olmo_dynamics.training.parent.transformers_trainer import OPTIMIZER_FILE, read_optimizer
from olmo_dynamics.training.saved_state import STATE_FILE, parse_training_state

GROUPS_FILE = "training_state/groups.json"
"""Hyper-parameters by group of a live optimiser, in place of the `state.json` of a checkpoint; see `collection.live`."""

FIRST, SECOND = "exp_avg", "exp_avg_sq"

DTYPES = ("F64", "F32", "BF16", "F16")
"""The dtypes of moments that can be measured."""


@dataclass(frozen=True)
class RevisionState:
    """The state of a checkpoint's tensors; `infos` are its moments, named `{tensor}.exp_avg` and `{tensor}.exp_avg_sq`."""

    checkpoint: Checkpoint
    state: OptimizerState

    @property
    def name(self) -> str:
        """The optimiser's name, such as `SkipStepAdamW`."""
        return self.state.name

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """The places of all moments by name, for a plan of what is fetched."""
        return self.state.together.infos

    def moments_of(self, tensor: str) -> tuple[TensorInfo, ...]:
        """The first moment of a tensor and, if there is one, the second; empty where it has no state."""
        found = (self.infos.get(f"{tensor}.{kind}") for kind in (FIRST, SECOND))
        return tuple(info for info in found if info is not None)

    def read_many(self, infos: Sequence[TensorInfo]) -> dict[str, np.ndarray]:
        """Read the bytes of some moments, by their names."""
        return self.state.together.read_many([info.name for info in infos])

    def spans(self, infos: Sequence[TensorInfo]) -> list[Span]:
        """The spans of files that hold some moments."""
        return self.state.together.spans([info.name for info in infos])

    def observation(self, tensor: str, raws: Mapping[str, np.ndarray]) -> Observation:
        """One tensor's state as recorders are shown it, from the bytes of its moments by their names."""
        first, *second = self.moments_of(tensor)
        info = replace(first, name=tensor)
        beside: dict[str, Tensor] = {}
        if second:
            beside[SECOND] = to_tensor(raws[second[0].name], second[0])
        numbers = self._settings.get(tensor, {})
        if tensor in self.state.steps:
            numbers = {"step": self.state.steps[tensor], **numbers}
        beside |= {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
        return Observation(
            values=to_tensor(raws[first.name], first),
            reads=Reads.OPTIMIZER,
            layer=info.layer,
            tensor=info,
            beside=beside,
        )

    @cached_property
    def _settings(self) -> dict[str, dict[str, float]]:
        """Hyper-parameters by tensor."""
        return {name: found for group in self.state.groups for found in [_numbers(group)] for name in group["params"]}


def read_state(checkpoint: Checkpoint) -> RevisionState | None:
    """Read where an optimiser's state lies, its steps and its hyper-parameters; None where a checkpoint has no state.

    Raises:
        CheckpointError: it is damaged, contradicts the weights, or is of an optimiser whose state cannot be measured.
    """
    try:
        state = _state(checkpoint)
        if state is not None:
            _check(state, checkpoint.tensors)
    except CheckpointError as problem:
        if str(problem).startswith(checkpoint.label):
            raise
        raise type(problem)(f"{checkpoint.label}: {problem}") from None
    return None if state is None else RevisionState(checkpoint, state)


def find_state(checkpoint: Checkpoint, *, asked: bool) -> tuple[RevisionState | None, str]:
    """The state, or None and in words why there is none: it is missing, or cannot be read and was not asked for by name.

    Raises:
        CheckpointError: it was asked for, and is damaged or cannot be measured.
        UnknownModelError: it was asked for, and numbers the parameters of a model of an unknown type.
    """
    name = checkpoint.revision.name
    try:
        state = read_state(checkpoint)
    except (CheckpointError, UnknownModelError) as problem:
        if asked:
            raise
        return None, str(problem) if name in str(problem) else f"{name}: {problem}"
    if state is not None:
        return state, ""
    places = "training_state/, optim.pt, model_and_optim/ with moments, or optimizer.pt"
    return None, f"{name} has no optimiser's state ({places})"


def _state(checkpoint: Checkpoint) -> OptimizerState | None:
    if WRITTEN_FILE in checkpoint.files:
        name, groups = _written_groups(checkpoint)
        return written_state(checkpoint.read_spans, checkpoint.files, groups=groups, name=name)
    if checkpoint.stored_as is not None:
        return checkpoint.stored_as.optimizer_state
    return read_optimizer(checkpoint) if OPTIMIZER_FILE in checkpoint.files else None


def _written_groups(checkpoint: Checkpoint) -> tuple[str, list[dict[str, Any]]]:
    """The optimiser's name and groups of a checkpoint that this library wrote, or laid in memory."""
    if GROUPS_FILE in checkpoint.files:
        live = parse_object(checkpoint.read_file(GROUPS_FILE), GROUPS_FILE, CheckpointError)
        return str(live["optimizer"]), live["groups"]
    saved = parse_training_state(checkpoint.read_file(STATE_FILE), STATE_FILE)
    recipe = saved.recipe
    rate = recipe.learning_rate(saved.step, saved.tokens_seen)
    return "AdamW", [{"lr": rate, "betas": recipe.betas, "eps": recipe.eps, "params": list(checkpoint.tensors)}]


def _check(state: OptimizerState, weights: Mapping[str, TensorInfo]) -> None:
    """Check that moments have the shapes of the weights, names of their own, and a dtype that can be measured."""
    for kind, tensors in state.moments.items():
        for name, info in tensors.infos.items():
            if f"{name}.{kind}" in weights:
                raise CheckpointError(
                    f"weights must not have the name {name}.{kind} of an optimiser's state; rename them"
                )
            if name in weights and info.shape != weights[name].shape:
                raise CheckpointError(
                    f"the optimiser's state of {name} must have the shape {list(weights[name].shape)} of the weights "
                    f"(got {list(info.shape)}); fetch both again"
                )
            if info.dtype not in DTYPES:
                raise CheckpointError(
                    f"the optimiser's state of {name} must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]} (got {info.dtype})"
                )


def _numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """The hyper-parameters of a group that are numbers, under the names that recorders know."""
    betas = group.get("betas", (group.get("beta1"), group.get("beta2")))
    pair = betas if isinstance(betas, list | tuple) and len(betas) == 2 else (None, None)
    given = {
        "lr": group.get("lr"),
        "beta1": pair[0],
        "beta2": pair[1],
        "eps": group.get("eps", group.get("epsilon")),
        "weight_decay": group.get("weight_decay"),
    }
    found: dict[str, float] = {}
    for name, value in given.items():
        with suppress(TypeError, ValueError, OverflowError):  # an array of one number, as of a compiled optimiser
            number = float(value)
            found |= {name: number} if math.isfinite(number) else {}
    return found
