"""`pytorch_model.bin` files, published before safetensors: with fused tensors by hf_olmo, under their own names by others.

They are read span by span like other formats: the file is never loaded as a whole, and its pickle never executed.

    >>> found = BinFormat(checkpoint.read_spans, checkpoint.files)                              # doctest: +SKIP
    >>> found.weights.infos["model.layers.0.self_attn.k_proj.weight"].file                      # doctest: +SKIP
    'pytorch_model.bin'
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from olmo_dynamics.checkpoints.formats.base import Format
from olmo_dynamics.checkpoints.formats.native_config import canonical_config, is_native
from olmo_dynamics.checkpoints.formats.pickle_allowlist import TENSORS, PickledTensor
from olmo_dynamics.checkpoints.formats.plain_names import named_views
from olmo_dynamics.checkpoints.formats.tensor_views import Stored, TensorSet, stored_tensor
from olmo_dynamics.checkpoints.formats.torch_files import TorchFile, open_torch_file
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.checkpoints.tensors import SpanReader, parse_object
from olmo_dynamics.errors import CheckpointError

BIN_FILE = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
CONFIG_FILE = "config.json"


class BinFormat(Format):
    """`config.json` and `pytorch_model.bin`, or several of the latter and an index."""

    name = "pytorch"

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        return parse_object(self.read_small(CONFIG_FILE), CONFIG_FILE, CheckpointError)

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`, with native fields translated to Hugging Face's names if hf_olmo wrote it."""
        return canonical_config(self.recipe) if is_native(self.recipe) else self.recipe

    @cached_property
    def weight_files(self) -> list[str]:
        """The single file, or those that the index names."""
        if BIN_FILE in self._files:
            return [BIN_FILE]
        homes = parse_object(self.read_small(BIN_INDEX), BIN_INDEX, CheckpointError).get("weight_map")
        names = sorted({str(name) for name in homes.values()}) if isinstance(homes, dict) else []
        for name in names:
            if PurePosixPath(name).name != name or name not in self._files:
                raise CheckpointError(f"{BIN_INDEX} names {brief(name)}, which is missing; fetch it")
        return names

    @cached_property
    def weights(self) -> TensorSet:
        """The weights under canonical names where these are known, fused tensors of hf_olmo split."""
        stored = [tensor for file in self.weight_files for tensor in read_state_dict(self._read, file, self._files)]
        return TensorSet(self._read, named_views(stored, lambda: self._words))

    @cached_property
    def _words(self) -> dict[str, Any]:
        """The contents of `config.json`, empty if it is missing or damaged: names alone do not need it."""
        try:
            return self.recipe
        except CheckpointError:
            return {}


def read_state_dict(read: SpanReader, file: str, files: Mapping[str, int]) -> list[Stored]:
    """The tensors of a saved state dict, in its order.

    Raises:
        CheckpointError: the file is not a state dict, hostile or damaged.
    """
    opened = open_torch_file(read, file, files[file], TENSORS)
    if not isinstance(opened.value, dict):
        raise CheckpointError(f"{file} must hold tensors by name (got a {type(opened.value).__name__})")
    return [store(opened, name, tensor) for name, tensor in opened.value.items()]


def store(opened: TorchFile, name: object, tensor: object) -> Stored:
    """One of a torch file's tensors, with the place of its bytes.

    Raises:
        CheckpointError: it is not a tensor with a name, or its storage is missing.
    """
    if not isinstance(name, str) or not isinstance(tensor, PickledTensor):
        raise CheckpointError(
            f"{opened.file} must hold tensors by name (got {brief(name)} as a {type(tensor).__name__})"
        )
    return stored_tensor(name, tensor, opened.place(tensor))
