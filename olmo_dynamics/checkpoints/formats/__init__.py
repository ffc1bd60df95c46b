"""Formats of checkpoints other than plain safetensors, each giving the same canonical tensors.

| format | files | class |
|---|---|---|
| pytorch | `config.json`, `pytorch_model.bin` | `BinFormat` |
| olmo | `config.yaml`, `model.pt` or `.safetensors`, `optim.*`, `train.pt` | `NativeFormat` |
| olmo-core | `config.json`, `model_and_optim/.metadata`, `*.distcp`, `train/rank0.pt` | `CoreFormat` |

    >>> find_format(checkpoint.read_spans, checkpoint.files).name                               # doctest: +SKIP
    'olmo-core'
"""

from __future__ import annotations

from collections.abc import Mapping

from olmo_dynamics.checkpoints.formats.base import Format
from olmo_dynamics.checkpoints.formats.core_config import core_config
from olmo_dynamics.checkpoints.formats.families import NAMED_OTHERWISE
from olmo_dynamics.checkpoints.formats.legacy import BIN_FILE, BIN_INDEX, BinFormat
from olmo_dynamics.checkpoints.formats.native import YAML_FILE, NativeFormat
from olmo_dynamics.checkpoints.formats.native_config import canonical_config
from olmo_dynamics.checkpoints.formats.olmo_core import FOLDER, NOTES_FILE, TRAINER_FILE, CoreFormat
from olmo_dynamics.checkpoints.formats.optimizer import OptimizerState
from olmo_dynamics.checkpoints.formats.plain_names import plain_config, plain_weights
from olmo_dynamics.checkpoints.formats.tensor_views import TensorSet
from olmo_dynamics.checkpoints.tensors import INDEX_FILE, SINGLE_FILE, SpanReader

__all__ = [
    "NAMED_OTHERWISE",
    "BinFormat",
    "CoreFormat",
    "Format",
    "NativeFormat",
    "OptimizerState",
    "TensorSet",
    "canonical_config",
    "core_config",
    "find_format",
    "plain_config",
    "plain_weights",
]

_CORE_FILES = (f"{FOLDER}/.metadata", ".metadata", TRAINER_FILE, NOTES_FILE)
_NATIVE_FILES = (YAML_FILE, "model.pt", "train.pt")


def find_format(read: SpanReader, files: Mapping[str, int]) -> Format | None:
    """The format of a checkpoint with these files, None for plain safetensors and for no weights at all.

    A half-fetched directory is recognised by any file that only its format has; missing files are reported when they are read.
    """
    if any(name in files for name in _CORE_FILES) or any(name.endswith(".distcp") for name in files):
        return CoreFormat(read, files)
    if any(name in files for name in _NATIVE_FILES):
        return NativeFormat(read, files)
    plain = SINGLE_FILE in files or INDEX_FILE in files
    if not plain and (BIN_FILE in files or BIN_INDEX in files):
        return BinFormat(read, files)
    return None
