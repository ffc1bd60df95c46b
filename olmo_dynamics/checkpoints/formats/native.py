"""Directories of Ai2's first trainer (`stepN-unsharded/`): `config.yaml`, `model`, `optim` and `train.pt`.

Model and optimiser are `.pt` files, or `.safetensors` files with encoded keys, which the trainer itself prefers if both exist.

    >>> found = NativeFormat(checkpoint.read_spans, checkpoint.files)                           # doctest: +SKIP
    >>> found.trainer["global_step"], found.recipe["optimizer"]["name"]                         # doctest: +SKIP
    (40, 'adamw')
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import yaml

from olmo_dynamics.checkpoints.formats.base import Format
from olmo_dynamics.checkpoints.formats.canonical_names import ModelShape, native_views
from olmo_dynamics.checkpoints.formats.encoded import read_encoded
from olmo_dynamics.checkpoints.formats.legacy import read_state_dict
from olmo_dynamics.checkpoints.formats.native_config import canonical_config
from olmo_dynamics.checkpoints.formats.native_state import encoded_entries, name_entries, pickled_entries
from olmo_dynamics.checkpoints.formats.optimizer import OptimizerState, build_state, stated_name
from olmo_dynamics.checkpoints.formats.plain_names import native_named
from olmo_dynamics.checkpoints.formats.tensor_views import Stored, TensorSet, View
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.errors import CheckpointError

YAML_FILE = "config.yaml"
TRAINER_FILES = ("train.pt", "other.pt")  # the second in the oldest checkpoints


class NativeFormat(Format):
    """An unsharded directory of the trainer."""

    name = "olmo"

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The contents of `config.yaml`."""
        return read_yaml(self.read_small(YAML_FILE, 1 << 20), YAML_FILE)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's part of `config.yaml`, under Hugging Face's names."""
        model = self.recipe.get("model")
        if not isinstance(model, dict):
            raise CheckpointError(f"{YAML_FILE} must hold the model's fields under `model` (got {brief(model)})")
        return canonical_config(model)

    @cached_property
    def weight_files(self) -> list[str]:
        """`model.safetensors` or `model.pt`."""
        file = self._pick("model")
        if file is None:
            raise CheckpointError(
                "a checkpoint in olmo format must have model.pt or model.safetensors; fetch one of them"
            )
        return [file]

    @cached_property
    def weights(self) -> TensorSet:
        """The weights under canonical names where these are known, fused tensors split."""
        [file] = self.weight_files
        if file.endswith(".pt"):
            stored = read_state_dict(self._read, file, self._files)
        else:
            values = read_encoded(self._read, file, self._files)
            stored = [tensor for tensor in values.values() if isinstance(tensor, Stored)]
        return TensorSet(self._read, native_named(stored, self._fields))

    @cached_property
    def _fields(self) -> dict[str, Any]:
        """The model's fields, empty where they are missing or damaged: most names do not depend on them."""
        try:
            model = self.recipe.get("model")
        except CheckpointError:
            model = None
        return model if isinstance(model, dict) else {}

    @cached_property
    def optimizer_state(self) -> OptimizerState | None:
        """The state in `optim.safetensors` or `optim.pt`, None if neither exists."""
        file = self._pick("optim")
        if file is None:
            return None
        entries = encoded_entries if file.endswith(".safetensors") else pickled_entries
        stored, groups = name_entries(*entries(self._read, file, self._files), file)
        name = stated_name(self.recipe)
        return build_state(self._read, self._to_views, stored=stored, groups=groups, where=file, name=name)

    @cached_property
    def trainer(self) -> dict[str, Any]:
        """The fields of `train.pt`: epoch (from 0), steps, examples and tokens seen, random states."""
        found = next((name for name in TRAINER_FILES if name in self._files), TRAINER_FILES[0])
        return self.read_trainer(found)

    def _pick(self, stem: str) -> str | None:
        return next((f"{stem}{ending}" for ending in (".safetensors", ".pt") if f"{stem}{ending}" in self._files), None)

    def _to_views(self, stored: Iterable[Stored]) -> Iterator[View]:
        return native_views(stored, ModelShape.of(self.config))


def read_yaml(text: bytes, file: str) -> dict[str, Any]:
    """Read the fields of a YAML file; tags that would build objects are refused.

    Raises:
        CheckpointError: it is not YAML of plain fields.
    """
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        line = " ".join(str(problem).split())
        raise CheckpointError(f"{file} must be YAML of plain fields ({line:.160}); fetch the file again") from None
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{file} must be YAML of plain fields (got a {type(found).__name__}); fetch the file again"
        )
    return found
