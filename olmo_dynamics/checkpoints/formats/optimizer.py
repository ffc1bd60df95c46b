"""Optimisers' state by canonical name: moments split like the weights, steps, and hyper-parameters by group.

>>> state = checkpoint_format.optimizer                                                     # doctest: +SKIP
>>> state.steps["model.norm.weight"], state.groups[0]["weight_decay"]                       # doctest: +SKIP
(40.0, 0.1)
>>> state.moments["exp_avg"].read("model.norm.weight")                                      # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo_dynamics.checkpoints.formats.tensor_views import Stored, TensorSet, View
from olmo_dynamics.checkpoints.formats.torch_files import NUMPY_DTYPES
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.checkpoints.tensors import SpanReader
from olmo_dynamics.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means of the gradient and of its square."""

Kinds = Mapping[str, Stored | float]
"""One parameter's state: its moments, and its step, which old trainers stored as a plain number."""

ToViews = Callable[[Iterable[Stored]], Iterator[View]]
"""Splits stored tensors into canonical ones."""


@dataclass(frozen=True)
class OptimizerState:
    """AdamW's state: `moments[kind]` holds one tensor per weight, under the weight's name and in its shape.

    `steps` are the updates that the optimiser counted, as it stored them (OLMo-core's SkipStepAdamW stores one more than it
    made, and 0 in the runs before its fix). Each group has its hyper-parameters, and canonical names under `params`.
    """

    moments: Mapping[str, TensorSet]
    steps: Mapping[str, float]
    groups: Sequence[Mapping[str, Any]]


def build_state(
    read: SpanReader,
    to_views: ToViews,
    *,
    stored: Mapping[str, Kinds],
    groups: Iterable[Mapping[str, Any]],
    where: str,
) -> OptimizerState:
    """Build the state from `{parameter: {"step" | "exp_avg" | "exp_avg_sq": tensor}}`, all under the trainer's names.

    Raises:
        CheckpointError: a moment or a step is missing, or has a shape that its name cannot have.
    """
    for parameter, kinds in stored.items():
        missing = [kind for kind in MOMENTS if not isinstance(kinds.get(kind), Stored)] + ["step"] * (
            "step" not in kinds
        )
        if missing:
            raise CheckpointError(
                f"{where}: {parameter} must also have {', '.join(missing)} (got {', '.join(kinds) or 'nothing'}); only AdamW's "
                "state can be read"
            )
    tensors = {kind: [_named(name, kinds[kind]) for name, kinds in stored.items()] for kind in MOMENTS}
    moments = {kind: TensorSet(read, to_views(tensors[kind])) for kind in MOMENTS}
    pieces = {tensor.name: [view.name for view in to_views([tensor])] for tensor in tensors["exp_avg"]}
    steps = _read_steps(read, {parameter: kinds["step"] for parameter, kinds in stored.items()}, where)
    return OptimizerState(
        moments,
        {name: step for parameter, step in steps.items() for name in pieces[parameter]},
        [{**group, "params": _group_names(group["params"], pieces, where)} for group in groups],
    )


def _group_names(parameters: Iterable[str], pieces: Mapping[str, list[str]], where: str) -> list[str]:
    names = []
    for parameter in parameters:
        if parameter not in pieces:
            raise CheckpointError(
                f"{where}: a group names {brief(parameter)}, which has no state; fetch the file again"
            )
        names += pieces[parameter]
    return names


def _read_steps(read: SpanReader, stored: Mapping[str, Stored | float], where: str) -> dict[str, float]:
    tensors = {parameter: step for parameter, step in stored.items() if isinstance(step, Stored)}
    for parameter, tensor in tensors.items():
        if tensor.shape not in ((), (1,)) or tensor.dtype not in NUMPY_DTYPES:
            raise CheckpointError(
                f"{where}: the step of {parameter} must be one number (got {tensor.dtype} {list(tensor.shape)})"
            )
    raws = TensorSet(read, [View(parameter, tensor) for parameter, tensor in tensors.items()]).read_many(list(tensors))
    numbers = {name: np.frombuffer(raw, NUMPY_DTYPES[tensors[name].dtype])[0] for name, raw in raws.items()}
    return {parameter: float(numbers.get(parameter, step)) for parameter, step in stored.items()}


def _named(parameter: str, tensor: Stored | float) -> Stored:
    assert isinstance(tensor, Stored)  # checked before
    return Stored(parameter, tensor.dtype, tensor.shape, tensor.chunks)
