"""Checkpoints on disk, opened by their format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from olmo_dynamics.checkpoints.folder import FolderCheckpoint
from olmo_dynamics.checkpoints.formats import Format, TensorSet, find_format
from olmo_dynamics.names import Revision

TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def open_format(folder: Path) -> Format:
    """The format of a checkpoint in a folder."""
    checkpoint = FolderCheckpoint("run", Revision("step7"), folder)
    found = find_format(checkpoint.read_spans, checkpoint.files)
    assert found is not None
    return found


def tensors_of(tensors: TensorSet) -> dict[str, torch.Tensor]:
    """All tensors, read at once, as torch tensors."""
    raws = tensors.read_many(list(tensors.infos))
    found = {}
    for name, info in tensors.infos.items():
        assert raws[name].nbytes == info.nbytes
        assert not raws[name].flags.writeable
        found[name] = torch.from_numpy(np.array(raws[name])).view(TORCH_DTYPES[info.dtype]).reshape(info.shape)
    return found


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Assert the same names and the same bits, in any order."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
