"""Checkpoints of transformers' Trainer: `trainer_state.json` and `optimizer.pt` beside the weights, read without running code.

`optimizer.pt` numbers parameters and does not name them. The Trainer numbers those with weight decay first, then the norms,
each in the model's order; a state that fits this order in every count and shape is read, any other is left out and says why.

    >>> found = read_trainer_files(checkpoint)                                                  # doctest: +SKIP
    >>> found.step, found.rate, found.optimizer is not None                                     # doctest: +SKIP
    (12, 4e-05, True)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.checkpoints.formats.native_state import pickled_entries
from olmo_dynamics.checkpoints.formats.optimizer import MOMENTS, Kinds, OptimizerState, build_state
from olmo_dynamics.checkpoints.formats.tensor_views import Stored, View
from olmo_dynamics.checkpoints.tensors import parse_object
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.model import expected_shapes, parse_config

STATE_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.pt"
UNREAD = ("optimizer.bin", "optimizer_", "global_step", "scheduler.pt", "rng_state", "scaler.pt", "training_args.bin")
"""The beginnings of names of further files and folders, those of sharded optimisers among them."""

MAX_STATE_BYTES = 256 << 20  # 256 MiB; it logs every few steps of a run

DEFAULTS: Mapping[str, Any] = {
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "no_decay": ("*norm*",),
    "z_loss": 0.0,
}
"""The Trainer's own AdamW and loss, where its files leave them open."""

_SETTINGS = ("lr", "eps", "weight_decay")


@dataclass(frozen=True)
class TrainerFiles:
    """The contents of the Trainer's files; a value is None, or empty, if its file is missing or could not be read."""

    step: int | None = None
    tokens_seen: int | None = None
    optimizer: OptimizerState | None = None
    rate: float | None = None  # of the next update
    settings: Mapping[str, Any] = field(default_factory=dict)  # of AdamW, by the recipe's names
    problems: Mapping[str, str] = field(default_factory=dict)  # by file: why it is not read


def has_trainer_files(checkpoint: Checkpoint) -> bool:
    """True if the Trainer's state or its optimiser's lies beside the weights."""
    return STATE_FILE in checkpoint.files or OPTIMIZER_FILE in checkpoint.files


def read_trainer_files(checkpoint: Checkpoint) -> TrainerFiles:
    """Read the Trainer's step and AdamW's state; a file that cannot be read is a problem, not an error."""
    step = tokens_seen = rate = optimizer = None
    settings: Mapping[str, Any] = {}
    others = (name.partition("/")[0] for name in checkpoint.files if name.startswith(UNREAD))
    problems = dict.fromkeys(sorted(others), "its contents are not used")
    if STATE_FILE in checkpoint.files:
        try:
            step, tokens_seen = _read_counters(checkpoint)
        except CheckpointError as problem:
            problems[STATE_FILE] = str(problem)
    if OPTIMIZER_FILE in checkpoint.files:
        try:
            optimizer = read_optimizer(checkpoint)
            rate, settings = _settings(optimizer.groups)
        except CheckpointError as problem:
            optimizer, problems[OPTIMIZER_FILE] = None, str(problem)
    return TrainerFiles(step, tokens_seen, optimizer, rate, settings, problems)


def read_optimizer(checkpoint: Checkpoint) -> OptimizerState:
    """Read AdamW's state under canonical names; its tensors are read when they are needed.

    Raises:
        CheckpointError: the file is damaged or hostile, or its numbers cannot be matched with the model's parameters.
    """
    entries, groups = pickled_entries(checkpoint.read_spans, OPTIMIZER_FILE, checkpoint.files)
    shapes = expected_shapes(parse_config(checkpoint.config, checkpoint.tensors))
    numbers = _numbers(groups)
    names = _match(numbers, entries, shapes)
    stored = {name: entries[number] for number, name in names.items()}
    named = [
        {**group, "params": [names[number] for number in some]} for group, some in zip(groups, numbers, strict=True)
    ]
    return build_state(checkpoint.read_spans, _views, stored=stored, groups=named, where=OPTIMIZER_FILE)


def _read_counters(checkpoint: Checkpoint) -> tuple[int, int | None]:
    """The step, and the tokens seen if the Trainer counted them."""
    size = checkpoint.files[STATE_FILE]
    if size > MAX_STATE_BYTES:
        raise CheckpointError(f"it must have at most {MAX_STATE_BYTES} bytes (got {size})")
    state = parse_object(checkpoint.read_file(STATE_FILE), STATE_FILE, CheckpointError)
    step, tokens = _count(state.get("global_step")), _count(state.get("num_input_tokens_seen"))
    if step is None:
        given = str(state.get("global_step"))
        raise CheckpointError(f"global_step must be a whole number of at least 0 (got {given:.40})")
    return step, tokens or None


def _numbers(groups: Any) -> list[list[Any]]:
    """The parameters' numbers in each group."""
    if not isinstance(groups, list) or not groups or not all(isinstance(group, dict) for group in groups):
        raise CheckpointError("it must hold param_groups")
    numbers = [group.get("params") for group in groups]
    found = [number for some in numbers if isinstance(some, list) for number in some]
    if not all(isinstance(some, list) for some in numbers) or found != list(range(len(found))):
        raise CheckpointError("its groups must number all parameters in order")
    return numbers


def _match(
    numbers: Sequence[Sequence[int]], entries: Mapping[Any, Kinds], shapes: Mapping[str, tuple[int, ...]]
) -> dict[int, str]:
    """The name of each number, if one of the Trainer's orders fits in every count and shape."""
    norms = [name for name in shapes if "norm" in name]
    matrices = [name for name in shapes if name not in norms]
    counts = [len(some) for some in numbers]
    for order in ([matrices, norms], [list(shapes), []], [list(shapes)]):
        if counts == [len(some) for some in order]:
            names = [name for some in order for name in some]
            for number, name in enumerate(names):
                _check_shape(entries.get(number), name, shapes[name])
            return dict(enumerate(names))
    raise CheckpointError(
        f"its groups have {' and '.join(map(str, counts))} parameters, but the model has {len(matrices)} and {len(norms)} norms"
    )


def _check_shape(kinds: Kinds | None, name: str, shape: tuple[int, ...]) -> None:
    found = {kind: kinds[kind] for kind in MOMENTS if kind in kinds} if kinds else {}
    shapes = {kind: each.shape if isinstance(each, Stored) else None for kind, each in found.items()}
    if shapes != dict.fromkeys(MOMENTS, shape):
        given = ", ".join(f"{kind} {list(each or ())}" for kind, each in shapes.items()) or "neither"
        raise CheckpointError(
            f"in the model's order, {name} must have two moments of shape {list(shape)} (got {given})"
        )


def _settings(groups: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, Any]]:
    """The rate and AdamW's settings, which all groups share but for weight decay."""
    for group in groups:
        betas = group.get("betas")
        pair: list[Any] = list(betas) if isinstance(betas, list | tuple) and len(betas) == 2 else [None]
        for value in (*pair, *(group.get(name) for name in _SETTINGS)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise CheckpointError(
                    f"its lr, betas, eps and weight_decay must be numbers of at least 0 (got {value})"
                )
        if max(pair) >= 1 or not group["eps"]:
            raise CheckpointError(f"betas must be below 1 and eps above 0 (got {pair} and {group['eps']})")
        coupled = group.get("decoupled_weight_decay") is False and group["weight_decay"]
        if group.get("amsgrad") or group.get("maximize") or coupled:
            raise CheckpointError("only AdamW without amsgrad and maximize is continued")
    used = [group for group in groups if group["params"]]
    shared = {(float(group["lr"]), tuple(map(float, group["betas"])), float(group["eps"])) for group in used}
    decays = {float(group["weight_decay"]) for group in used}
    if len(shared) != 1 or len(decays - {0.0}) > 1:
        raise CheckpointError("its groups may differ only in having weight decay or not")
    [(rate, betas, eps)] = shared
    bare = [group for group in used if not group["weight_decay"]] if any(decays) else used[1:]
    no_decay = tuple(name for group in bare for name in group["params"])
    return rate, {"betas": betas, "eps": eps, "weight_decay": max(decays), "no_decay": no_decay}


def _views(stored: Iterable[Stored]) -> Iterator[View]:
    return (View(tensor.name, tensor) for tensor in stored)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None
