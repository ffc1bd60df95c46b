"""Optimisers' state by canonical name: moments split like the weights, steps, and hyper-parameters by group.

>>> state = checkpoint_format.optimizer                                                     # doctest: +SKIP
>>> state.steps["model.norm.weight"], state.groups[0]["weight_decay"]                       # doctest: +SKIP
(40.0, 0.1)
>>> state.moments["exp_avg"].read("model.norm.weight")                                      # doctest: +SKIP
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from olmo_dynamics.checkpoints.formats.tensor_views import Stored, TensorSet, View
from olmo_dynamics.checkpoints.formats.torch_files import NUMPY_DTYPES
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.checkpoints.tensors import Span, SpanReader
from olmo_dynamics.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means of the gradient and of its square."""

NAMES_OF_MOMENTS = {
    "exp_avg": ("exp_avg", "momentum", "momentum_buffer"),
    "exp_avg_sq": ("exp_avg_sq", "variance"),
}
"""The names that trainers give to each moment: AdamW's and Lion's own, those of Muon and Dion (package dion), torch's Muon."""

MAX_NAME = 64
"""Characters of an optimiser's name; a longer one in a config is not believed."""

NEAR_BYTES = 1 << 16  # 64 KiB take less time than another request

Kinds = Mapping[str, Stored | float]
"""One parameter's state: its moments, and its step, which old trainers stored as a plain number."""

ToViews = Callable[[Iterable[Stored]], Iterator[View]]
"""Splits stored tensors into canonical ones."""


@dataclass(frozen=True)
class OptimizerState:
    """An optimiser's state: `moments[kind]` holds one tensor per weight that has it, under the weight's name and in its shape.

    `together` holds the same tensors, named `{weight}.{kind}`, to read both moments of a weight in one round.
    AdamW has both moments of every weight; Muon, Dion and Lion keep only `exp_avg` of matrices, or of all. `steps` are the
    updates that the optimiser counted, as it stored them (OLMo-core's SkipStepAdamW stores one more than it made, and 0 in the
    runs before its fix). Each group has its hyper-parameters, and canonical names under `params`. `lacking` says in one line
    what AdamW would need in order to go on; it is empty for AdamW with a state of every parameter.
    """

    moments: Mapping[str, TensorSet]
    together: TensorSet
    steps: Mapping[str, float]
    groups: Sequence[Mapping[str, Any]]
    name: str = "AdamW"
    lacking: str = ""

    def require_adamw(self) -> Self:
        """Return the state if it is AdamW's.

        Raises:
            CheckpointError: a moment or a step of a parameter is missing.
        """
        if self.lacking:
            raise CheckpointError(self.lacking)
        return self


def build_state(
    read: SpanReader,
    to_views: ToViews,
    *,
    stored: Mapping[str, Kinds],
    groups: Iterable[Mapping[str, Any]],
    where: str,
    name: str = "",
) -> OptimizerState:
    """Build the state from `{parameter: {"step" | "exp_avg" | "exp_avg_sq": tensor}}`, all under the trainer's names.

    Raises:
        CheckpointError: no parameter has a first moment, or a moment or a step has a shape that its name cannot have.
    """
    read = join_near(read)
    tensors = _moments(stored, where)
    pieces: dict[str, list[str]] = {parameter: [] for parameter in stored}
    pieces |= {tensor.name: [view.name for view in to_views([tensor])] for tensor in tensors["exp_avg"]}
    steps = _read_steps(
        read, {parameter: kinds["step"] for parameter, kinds in stored.items() if "step" in kinds}, where
    )
    groups = list(groups)
    named = [{**group, "params": _group_names(group["params"], pieces)} for group in groups]
    lacking = _lacking(stored, where)
    frozen = [parameter for group in groups for parameter in group["params"] if parameter not in pieces]
    named_views = [
        replace(view, name=f"{view.name}.{kind}") for kind, some in tensors.items() for view in to_views(some)
    ]
    return OptimizerState(
        {kind: TensorSet(read, to_views(some)) for kind, some in tensors.items()},
        TensorSet(read, named_views),
        _steps_of_groups(named, where)
        | {name: step for parameter, step in steps.items() for name in pieces[parameter]},
        named,
        name or ("unknown" if lacking else "AdamW"),
        lacking
        or (f"{where}: a group names {brief(frozen[0])}, which has no state; fetch the file again" if frozen else ""),
    )


def join_near(read: SpanReader) -> SpanReader:
    """A reader that reads spans with little between them in one piece: a state has many small parts, such as steps."""

    def joined(spans: Sequence[Span]) -> list[np.ndarray]:
        wholes: list[Span] = []
        for span in sorted(spans):
            last = wholes[-1] if wholes else None
            if last and last.file == span.file and span.start - last.stop <= NEAR_BYTES:
                wholes[-1] = Span(last.file, last.start, max(last.stop, span.stop))
            else:
                wholes.append(span)
        raws = dict(zip(wholes, read(wholes), strict=True))
        starts = [(whole.file, whole.start) for whole in wholes]
        homes = [wholes[bisect_right(starts, (span.file, span.start)) - 1] for span in spans]
        return [
            raws[home][span.start - home.start : span.stop - home.start]
            for span, home in zip(spans, homes, strict=True)
        ]

    return joined


def stated_name(recipe: Mapping[str, Any]) -> str:
    """The optimiser's name in a trainer's config, as its class is called; empty if there is none.

    >>> stated_name({"optimizer": {"name": "adamw"}})
    'AdamW'
    >>> stated_name({"train_module": {"optim": {"_CLASS_": "olmo_core.optim.adamw.SkipStepAdamWConfig"}}})
    'SkipStepAdamW'
    """
    module = recipe.get("train_module")
    parts = (recipe.get("optimizer"), recipe.get("optim"), module.get("optim") if isinstance(module, Mapping) else None)
    for part in parts:
        words = [part.get(key) for key in ("_CLASS_", "name", "type")] if isinstance(part, Mapping) else []
        found = next((word for word in words if isinstance(word, str) and word.isprintable()), "")
        if 0 < len(found) <= MAX_NAME:
            short = found.rpartition(".")[2].removesuffix("Config")
            return {"adamw": "AdamW", "lionw": "LionW"}.get(short, short)
    return ""


def _moments(stored: Mapping[str, Kinds], where: str) -> dict[str, list[Stored]]:
    """The moments of each kind, under the parameters' names."""
    found: dict[str, list[Stored]] = {kind: [] for kind in MOMENTS}
    for parameter, kinds in stored.items():
        both = [
            next((each for name in NAMES_OF_MOMENTS[kind] if isinstance(each := kinds.get(name), Stored)), None)
            for kind in MOMENTS
        ]
        shapes = [list(each.shape) for each in both if each is not None]
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{where}: both moments of {parameter} must have one shape (got {shapes[0]} and {shapes[1]}); fetch it again"
            )
        for kind, each in zip(MOMENTS, both, strict=True):
            if each is not None and both[0] is not None:
                found[kind].append(Stored(parameter, each.dtype, each.shape, each.chunks))
    if stored and not found["exp_avg"]:
        kinds_there = sorted({kind for kinds in stored.values() for kind in kinds})
        raise CheckpointError(
            f"{where} must hold {' or '.join(NAMES_OF_MOMENTS['exp_avg'])} of its parameters (got "
            f"{', '.join(kinds_there[:5]) or 'nothing'}); this optimiser's state cannot be read"
        )
    return found


def _lacking(stored: Mapping[str, Kinds], where: str) -> str:
    """The first thing that AdamW's state lacks, in one line; empty if it is whole."""
    for parameter, kinds in stored.items():
        missing = [kind for kind in MOMENTS if not isinstance(kinds.get(kind), Stored)] + ["step"] * (
            "step" not in kinds
        )
        if missing:
            return (
                f"{where}: {parameter} must also have {', '.join(missing)} (got {', '.join(kinds) or 'nothing'}); only AdamW's "
                "state can be read"
            )
    return ""


def _steps_of_groups(groups: Iterable[Mapping[str, Any]], where: str) -> dict[str, float]:
    """The steps that groups count for all of their parameters, as Muon and Dion do."""
    return {
        name: _as_float(group["step"], name, where)
        for group in groups
        if isinstance(group.get("step"), int | float)
        for name in group["params"]
    }


def _group_names(parameters: Iterable[str], pieces: Mapping[str, list[str]]) -> list[str]:
    """The canonical names of a group's parameters; those without state, as of frozen ones, are left out."""
    return [name for parameter in parameters for name in pieces.get(parameter, ())]


def _read_steps(read: SpanReader, stored: Mapping[str, Stored | float], where: str) -> dict[str, float]:
    tensors = {parameter: step for parameter, step in stored.items() if isinstance(step, Stored)}
    for parameter, tensor in tensors.items():
        if tensor.shape not in ((), (1,)) or tensor.dtype not in NUMPY_DTYPES:
            raise CheckpointError(
                f"{where}: the step of {parameter} must be one number (got {tensor.dtype} {list(tensor.shape)})"
            )
    raws = TensorSet(read, [View(parameter, tensor) for parameter, tensor in tensors.items()]).read_many(list(tensors))
    numbers = {name: np.frombuffer(raw, NUMPY_DTYPES[tensors[name].dtype])[0] for name, raw in raws.items()}
    return {parameter: _as_float(numbers.get(parameter, step), parameter, where) for parameter, step in stored.items()}


def _as_float(step: Any, parameter: str, where: str) -> float:
    try:
        return float(step)
    except OverflowError:
        raise CheckpointError(
            f"{where}: the step of {parameter} must be a number of at most 308 digits; fetch the file again"
        ) from None
