"""The optimiser's state as Ai2's first trainer wrote it: entries by parameter, numbered or named, and groups.

Runs on one process number the parameters over all groups, and list their names beside; sharded runs use names throughout.

    >>> groups = [{"params": [0], "param_names": ["module.transformer.wte.weight"], "lr": 0.1}]
    >>> name_entries({0: {"step": 3.0}}, groups, "optim.pt")
    ({'transformer.wte.weight': {'step': 3.0}}, [{'params': ['transformer.wte.weight'], 'lr': 0.1}])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.canonical_names import bare_name
from olmo_dynamics.checkpoints.formats.encoded import read_encoded
from olmo_dynamics.checkpoints.formats.legacy import store
from olmo_dynamics.checkpoints.formats.optimizer import Kinds
from olmo_dynamics.checkpoints.formats.pickle_allowlist import TENSORS
from olmo_dynamics.checkpoints.formats.tensor_views import Stored
from olmo_dynamics.checkpoints.formats.torch_files import TorchFile, open_torch_file
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.checkpoints.tensors import SpanReader
from olmo_dynamics.errors import CheckpointError

Entries = dict[Any, dict[str, Stored | float]]


def pickled_entries(read: SpanReader, file: str, files: Mapping[str, int]) -> tuple[Entries, Any]:
    """Read the state by the trainer's key, and the groups as they were written, from `optim.pt`.

    Raises:
        CheckpointError: it is not an optimiser's state, hostile or damaged.
    """
    opened = open_torch_file(read, file, files[file], TENSORS)
    state = opened.value.get("state") if isinstance(opened.value, dict) else None
    if not isinstance(state, dict) or not all(isinstance(kinds, dict) for kinds in state.values()):
        raise CheckpointError(f"{file} must hold an optimiser's state and param_groups; fetch the file again")
    return {key: _kinds(opened, kinds) for key, kinds in state.items()}, opened.value.get("param_groups")


def encoded_entries(read: SpanReader, file: str, files: Mapping[str, int]) -> tuple[Entries, Any]:
    """Read the state by the trainer's key, and the groups, from `optim.safetensors`.

    Raises:
        CheckpointError: a header or a key is hostile or damaged.
    """
    values = read_encoded(read, file, files)
    entries: Entries = {}
    for path, value in values.items():
        if len(path) == 3 and path[0] == "state" and isinstance(value, Stored | int | float):
            entries.setdefault(path[1], {})[str(path[2])] = value
    return entries, values.get(("param_groups",))


def name_entries(entries: Entries, groups: Any, file: str) -> tuple[dict[str, Kinds], list[dict[str, Any]]]:
    """State and groups under the trainer's parameter names.

    Raises:
        CheckpointError: the groups are invalid, name fewer parameters than they number, or omit one.
    """
    names = _parameter_names(groups, file)
    unknown = [key for key in entries if key not in names]
    if unknown:
        raise CheckpointError(f"{file}: parameter {brief(unknown[0])} is in no group; fetch the file again")
    named = [
        {key: value for key, value in group.items() if key != "param_names"}
        | {"params": [names[key] for key in group["params"]]}
        for group in groups
    ]
    return {names[key]: kinds for key, kinds in entries.items()}, named


def _kinds(opened: TorchFile, kinds: Mapping[Any, Any]) -> dict[str, Stored | float]:
    return {
        kind: value if isinstance(value, int | float) else store(opened, kind, value)
        for kind, value in kinds.items()
        if value is not None
    }


def _parameter_names(groups: Any, file: str) -> dict[Any, str]:
    """The trainer's name for each key under `params`: the key itself, or if keys are numbers, the name beside it."""
    names: dict[Any, str] = {}
    if not isinstance(groups, list) or not all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    ):
        raise CheckpointError(f"{file} must hold param_groups, each with params; fetch the file again")
    for group in groups:
        keys = group["params"]
        spelled = group.get("param_names", keys)
        if (
            not isinstance(spelled, list)
            or len(spelled) != len(keys)
            or not all(isinstance(name, str) for name in spelled)
        ):
            raise CheckpointError(f"{file}: a group numbers {len(keys)} parameters, but does not name as many")
        if not all(isinstance(key, str | int) for key in keys):
            raise CheckpointError(f"{file}: a group's params must be names or numbers; fetch the file again")
        names.update(zip(keys, map(bare_name, spelled), strict=True))
    return names
