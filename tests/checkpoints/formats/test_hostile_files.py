"""A hostile file for each format and each file in it that holds a pickle: refused by name, and never executed."""

from __future__ import annotations

import base64
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from olmo_dynamics.checkpoints.formats import Format
from olmo_dynamics.errors import CheckpointError
from tests.checkpoints.formats.conftest import open_format, tensors_of
from tests.checkpoints.formats.test_one_model import TINY
from tests.checkpoints.formats.test_unpickling import Call
from tests.checkpoints.formats.writing import core_experiment, native_config, saved, write_bin, write_core, write_native

SYSTEM = f"{os.system.__module__}.system"
STATE = {"transformer.wte.weight": torch.zeros(32, 16)}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def harm(canary: Path) -> Call:
    """An object that writes a file if its pickle is executed."""
    return Call(os.system, f"touch {canary}")


def _encoded(folder: Path, file: str, key: Any, value: Any = None) -> None:
    tensors = load_file(folder / file)
    name = base64.urlsafe_b64encode(pickle.dumps(key)).decode()
    tensors[name] = (
        torch.zeros(2) if value is None else torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    )
    save_file(tensors, folder / file)


def _patch_blob(folder: Path, name: str, value: Any) -> None:
    """Append a blob to the distributed checkpoint, and point the index at it."""
    index = folder / "model_and_optim" / ".metadata"
    metadata = dcp.FileSystemReader(index.parent).read_metadata()
    shards = folder / "model_and_optim" / "__0_0.distcp"
    data, blob = shards.read_bytes(), saved(value)
    shards.write_bytes(data + blob)
    key = next(key for key in metadata.storage_data if key.fqn == name)
    metadata.storage_data[key].offset, metadata.storage_data[key].length = len(data), len(blob)
    index.write_bytes(pickle.dumps(metadata))


def _bin(folder: Path, harm: Any) -> Format:
    write_bin(folder, native_config(TINY), STATE)
    (folder / "pytorch_model.bin").write_bytes(saved({"model.transformer.wte.weight": harm}))
    return open_format(folder)


def _native(file: str) -> Callable[[Path, Any], Format]:
    def write(folder: Path, harm: Any) -> Format:
        write_native(folder, native_config(TINY), STATE)
        (folder / file).write_bytes(saved({"state": {0: harm}, "param_groups": []}))
        return open_format(folder)

    return write


def _encoded_key(folder: Path, harm: Any) -> Format:
    write_native(folder, native_config(TINY), STATE, encoded=True)
    _encoded(folder, "model.safetensors", (("a", harm), False))
    return open_format(folder)


def _encoded_value(folder: Path, harm: Any) -> Format:
    write_native(folder, native_config(TINY), STATE, encoded=True)
    _encoded(folder, "optim.safetensors", (("extra",), True), harm)
    return open_format(folder)


def _core(change: Callable[[Path, Any], None]) -> Callable[[Path, Any], Format]:
    def write(folder: Path, harm: Any) -> Format:
        write_core(folder, core_experiment(TINY), {"embeddings.weight": torch.zeros(32, 16)})
        change(folder, harm)
        return open_format(folder)

    return write


def _index(folder: Path, harm: Any) -> None:
    (folder / "model_and_optim" / ".metadata").write_bytes(pickle.dumps(harm))


FILES: dict[str, tuple[Callable[[Path, Any], Format], str]] = {
    "pytorch_model.bin": (_bin, "weights"),
    "model.pt": (_native("model.pt"), "weights"),
    "optim.pt": (_native("optim.pt"), "optimizer"),
    "train.pt": (_native("train.pt"), "trainer"),
    "model.safetensors": (_encoded_key, "weights"),
    "optim.safetensors": (_encoded_value, "optimizer"),
    "model_and_optim/.metadata": (_core(_index), "weights"),
    "model_and_optim/__0_0.distcp, a tensor": (
        _core(lambda folder, harm: _patch_blob(folder, "model.embeddings.weight", harm)), "weights",
    ),
    "model_and_optim/__0_0.distcp, a number": (
        _core(lambda folder, harm: _patch_blob(folder, "optim.param_groups.embeddings.weight.lr", harm)), "optimizer",
    ),
    "train/rank0.pt": (_core(lambda folder, harm: (folder / "train/rank0.pt").write_bytes(saved(harm)) and None), "trainer"),
}  # fmt: skip


def _use(found: Format, part: str) -> None:
    value = getattr(found, part)
    if part == "weights":
        tensors_of(value)


@pytest.mark.parametrize("file", FILES)
def test_os_system_is_refused(file: str, tmp_path: Path, canary: Path, harm: Call) -> None:
    write, part = FILES[file]
    with pytest.raises(CheckpointError) as caught:
        _use(write(tmp_path / "step7", harm), part)
    message = str(caught.value)
    assert message.startswith(file.partition(",")[0])
    assert message.endswith(
        f"its pickle uses {SYSTEM!r}, which weights never need; nothing was executed, "
        "use a copy from a source you trust"
    )
    assert not canary.exists()
    assert "\n" not in message


@pytest.mark.parametrize("file", FILES)
def test_evaluated_text_is_refused(file: str, tmp_path: Path, canary: Path) -> None:
    write, part = FILES[file]
    with pytest.raises(CheckpointError, match=r"its pickle uses '(__builtin__|builtins)\.eval'"):
        _use(write(tmp_path / "step7", Call(eval, f"open({str(canary)!r}, 'w')")), part)
    assert not canary.exists()


def test_a_tensor_of_another_shape_than_its_index_says_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "step7"
    write_core(folder, core_experiment(TINY), {"embeddings.weight": torch.zeros(32, 16)})
    _patch_blob(folder, "model.embeddings.weight", torch.zeros(32, 8))
    with pytest.raises(
        CheckpointError, match=r"must hold F32 \[32, 16\] of tensor model.embeddings.weight \(found F32 \[32, 8\]\)"
    ):
        tensors_of(open_format(folder).weights)


def test_an_object_that_holds_itself_is_refused(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "step7", native_config(TINY), STATE)
    knot: dict[str, Any] = {}
    knot["self"] = knot
    (folder / "train.pt").write_bytes(saved(knot))
    with pytest.raises(CheckpointError, match=r"^train.pt must hold only numbers, .* holds itself"):
        _ = open_format(folder).trainer


@pytest.mark.parametrize("array", [np.array([{}], object), np.array(["a"]), np.zeros(1, "datetime64[s]")])
def test_arrays_of_objects_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    folder = write_native(tmp_path / "step7", native_config(TINY), STATE)
    (folder / "train.pt").write_bytes(saved({"rng": array}))
    with pytest.raises(CheckpointError, match=r"^train.pt must hold only numbers, .* holds a damaged array"):
        _ = open_format(folder).trainer


def test_yaml_tags_are_refused(tmp_path: Path, canary: Path) -> None:
    folder = write_native(tmp_path / "step7", native_config(TINY), STATE)
    (folder / "config.yaml").write_text(f"model: !!python/object/apply:os.system ['touch {canary}']")
    with pytest.raises(
        CheckpointError, match=r"^config.yaml must be YAML of plain fields \(could not determine a constructor"
    ):
        _ = open_format(folder).config
    assert not canary.exists()


@pytest.mark.parametrize("path", ["../outside.distcp", "/etc/passwd"])
def test_an_index_may_not_point_outside(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "step7"
    write_core(folder, core_experiment(TINY), {"embeddings.weight": torch.zeros(32, 16)})
    index = folder / "model_and_optim" / ".metadata"
    metadata = dcp.FileSystemReader(index.parent).read_metadata()
    next(iter(metadata.storage_data.values())).relative_path = path
    index.write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError) as caught:
        _ = open_format(folder).weights
    assert str(caught.value) == f"model_and_optim/.metadata names {path!r}, which lies outside the checkpoint"


@pytest.mark.parametrize(
    "file", ["model_and_optim/.metadata", "model_and_optim/__0_0.distcp", "model.pt", "optim.pt", "train.pt"]
)
def test_flipped_bytes_are_refused_or_read_and_nothing_else(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "step7"
    if "/" in file:
        write_core(folder, core_experiment(TINY), {"embeddings.weight": torch.zeros(32, 16)})
    else:
        write_native(folder, native_config(TINY), STATE)
    data = (folder / file).read_bytes()
    generator = np.random.default_rng(4)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for at in generator.integers(0, len(data), 3):
            damaged[at] = generator.integers(0, 256)
        (folder / file).write_bytes(damaged)
        try:
            for part in ("weights", "optimizer", "trainer"):
                _use(open_format(folder), part)
        except CheckpointError as problem:
            refused += "\n" not in str(problem)
    assert refused > 10


def test_a_laughing_yaml_takes_no_time(tmp_path: Path) -> None:
    folder = write_native(tmp_path / "step7", native_config(TINY), STATE)
    rows = ["x0: &x0 [ha]"] + [f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]" for n in range(1, 60)]
    (folder / "config.yaml").write_text("\n".join([*rows, "model: *x59"]))
    with pytest.raises(CheckpointError, match=r"^config.yaml must hold the model's fields under `model` \(got"):
        _ = open_format(folder).config
    (folder / "config.yaml").write_text("\n".join([*rows, "model: {laugh: *x59}"]))
    with pytest.raises(CheckpointError, match=r"^the model config: include_bias must be False \(got None\)"):
        _ = open_format(folder).config


def test_a_pickle_that_is_entangled_is_refused_in_no_time(tmp_path: Path) -> None:
    folder = tmp_path / "step7"
    write_core(folder, core_experiment(TINY), {"embeddings.weight": torch.zeros(32, 16)})
    knot: Any = (1,)
    for _ in range(60):
        knot = (knot, knot)
    metadata = dcp.FileSystemReader(folder / "model_and_optim").read_metadata()
    next(iter(metadata.storage_data.values())).relative_path = knot
    _index(folder, metadata)
    with pytest.raises(CheckpointError, match=r"which lies outside the checkpoint$"):
        _ = open_format(folder).weights
