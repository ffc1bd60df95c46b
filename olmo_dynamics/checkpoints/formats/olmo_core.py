"""OLMo-core directories (`stepN/`): `config.json`, `model_and_optim/` in torch's distributed format, `train/rank0.pt`.

Weights, moments and hyper-parameters are together in the distributed part, under `model.…` and `optim.…`. A checkpoint of a
model alone may have its `.metadata` in the top folder.

    >>> found = CoreFormat(checkpoint.read_spans, checkpoint.files)                             # doctest: +SKIP
    >>> found.config["model_type"], found.optimizer.steps["lm_head.weight"]                     # doctest: +SKIP
    ('olmo3', 41.0)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from olmo_dynamics.checkpoints.formats.base import Format
from olmo_dynamics.checkpoints.formats.canonical_names import ModelShape, bare_name, core_views, known_views
from olmo_dynamics.checkpoints.formats.core_config import core_config
from olmo_dynamics.checkpoints.formats.distcp import INDEX_NAME, Distributed, read_distributed
from olmo_dynamics.checkpoints.formats.optimizer import OptimizerState, build_state, stated_name
from olmo_dynamics.checkpoints.formats.tensor_views import Stored, TensorSet, View
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.checkpoints.tensors import parse_object
from olmo_dynamics.errors import CheckpointError

CONFIG_FILE = "config.json"
FOLDER = "model_and_optim"
TRAINER_FILE = "train/rank0.pt"
NOTES_FILE = ".metadata.json"

_STATE = "optim.state."
_GROUPS = "optim.param_groups."


class CoreFormat(Format):
    """A directory of OLMo-core."""

    name = "olmo-core"

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The contents of `config.json`: the whole experiment."""
        return parse_object(self.read_small(CONFIG_FILE), CONFIG_FILE, CheckpointError)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's part of `config.json`, under Hugging Face's names."""
        return core_config(self.recipe)

    @cached_property
    def weight_files(self) -> list[str]:
        """The files that hold shards of weights."""
        return sorted({span.file for view in self._weight_views() for span in view.spans})

    @cached_property
    def weights(self) -> TensorSet:
        """The weights, joined from their shards."""
        return TensorSet(self._read, self._weight_views())

    @cached_property
    def optimizer_state(self) -> OptimizerState | None:
        """Moments, steps and groups; None for a checkpoint of a model alone."""
        states: dict[str, dict[str, Stored]] = {}
        for name, tensor in self._index.tensors.items():
            if name.startswith(_STATE):
                parameter, _, kind = name.removeprefix(_STATE).rpartition(".")
                states.setdefault(bare_name(parameter), {})[kind] = tensor
        if not states:
            return None
        groups, name = read_groups(self._index), stated_name(self.recipe)
        return build_state(self._read, self._to_views, stored=states, groups=groups, where=FOLDER, name=name)

    @cached_property
    def trainer(self) -> dict[str, Any]:
        """The fields of `train/rank0.pt`: epoch (from 1), steps and tokens seen, the data loader's position, random states."""
        return self.read_trainer(TRAINER_FILE)

    @cached_property
    def notes(self) -> dict[str, Any]:
        """The contents of `.metadata.json`: the version of OLMo-core, and the flag that marks checkpoints to be kept."""
        return parse_object(self.read_small(NOTES_FILE), NOTES_FILE, CheckpointError)

    @cached_property
    def _index(self) -> Distributed:
        top = INDEX_NAME in self._files and f"{FOLDER}/{INDEX_NAME}" not in self._files
        return read_distributed(self._read, self._files, "" if top else FOLDER)

    def _weight_views(self) -> Iterator[View]:
        tensors = self._index.tensors
        stored = [tensor for name, tensor in tensors.items() if name.startswith("model.")]
        if not stored:
            raise CheckpointError(
                f"{FOLDER}/{INDEX_NAME} must list tensors that begin with `model.` (it lists {len(tensors)} others)"
            )
        try:
            shape = ModelShape.of(self.config)
        except CheckpointError:
            shape = None
        return known_views(stored, core_views, shape)

    def _to_views(self, stored: Iterable[Stored]) -> Iterator[View]:
        return core_views(stored, ModelShape.of(self.config))


def read_groups(index: Distributed) -> list[dict[str, Any]]:
    """Hyper-parameters by group, with parameters under the trainer's names.

    Flattened checkpoints hold them per parameter; parameters with the same values make a group, in order of appearance.

    Raises:
        CheckpointError: a pickled value is hostile or damaged, or a group does not name its parameters.
    """
    values = index.read_objects([name for name in index.objects if name.startswith(_GROUPS)])
    flat: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        owner, _, field = name.removeprefix(_GROUPS).rpartition(".")
        flat.setdefault(owner, {})[field] = value
    if f"{_GROUPS}0.params" in values:
        groups = [flat[number] for number in sorted(flat, key=lambda number: (len(number), number))]
        return [group | {"params": _parameters(group)} for group in groups]
    groups = []
    for parameter, fields in flat.items():
        found = next((group for group in groups if {**group, "params": None} == {**fields, "params": None}), None)
        if found is None:
            found = {**fields, "params": []}
            groups.append(found)
        found["params"].append(bare_name(parameter))
    return groups


def _parameters(group: dict[str, Any]) -> list[str]:
    names = group.get("params")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{FOLDER}: a parameter group must name its params (got {brief(names)})")
    return [bare_name(name) for name in names]
