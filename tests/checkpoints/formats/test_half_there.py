"""Incomplete checkpoints: files that are missing, cut off or of another model give one-line errors."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from olmo_dynamics.checkpoints.formats import Format
from olmo_dynamics.errors import CheckpointError
from tests.checkpoints.formats.conftest import open_format
from tests.checkpoints.formats.test_one_model import TINY
from tests.checkpoints.formats.writing import core_experiment, native_config, saved, write_bin, write_core, write_native

STATE = {"transformer.wte.weight": torch.zeros(32, 16), "transformer.blocks.0.att_proj.weight": torch.zeros(32, 16)}


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    return write_bin(tmp_path / "step7", native_config(TINY), STATE)


@pytest.fixture
def native_folder(tmp_path: Path) -> Path:
    return write_native(tmp_path / "step7", native_config(TINY), STATE)


@pytest.fixture
def core_folder(tmp_path: Path) -> Path:
    return write_core(tmp_path / "step7", core_experiment(TINY), {"embeddings.weight": torch.zeros(32, 16)})


def refusal(folder: Path, use: Callable[[Format], object]) -> str:
    """The one-line error of using a checkpoint."""
    with pytest.raises(CheckpointError) as caught:
        use(open_format(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_files_of_a_native_directory(native_folder: Path) -> None:
    wanted = {
        "config.yaml": lambda found: found.config,
        "train.pt": lambda found: found.trainer,
        "model.pt": lambda found: found.weights,
    }
    came = {}
    for name, use in wanted.items():
        (native_folder / name).rename(native_folder / "away")
        came[name] = refusal(native_folder, use)
        (native_folder / "away").rename(native_folder / name)
    assert came == {
        "config.yaml": "a checkpoint in olmo format must have config.yaml, which is missing; fetch it",
        "train.pt": "the trainer's state must be in train.pt, which is missing; fetch it",
        "model.pt": "a checkpoint in olmo format must have model.pt or model.safetensors; fetch one of them",
    }
    (native_folder / "optim.pt").unlink()
    assert open_format(native_folder).optimizer is None


def test_missing_files_of_a_core_directory(core_folder: Path) -> None:
    shard = next((core_folder / "model_and_optim").glob("*.distcp"))
    shard.rename(core_folder / "away")
    assert refusal(core_folder, lambda found: found.weights) == (
        f"model_and_optim/.metadata names model_and_optim/{shard.name}, which is missing; fetch it"
    )
    (core_folder / "away").rename(shard)
    (core_folder / "train" / "rank0.pt").unlink()
    assert refusal(core_folder, lambda found: found.trainer) == (
        "the trainer's state must be in train/rank0.pt, which is missing; fetch it"
    )
    (core_folder / "model_and_optim" / ".metadata").unlink()
    (core_folder / ".metadata.json").unlink()
    assert refusal(core_folder, lambda found: found.weights) == (
        "model_and_optim/.metadata, the index of the .distcp files, is missing; fetch it"
    )


def test_a_shard_cut_off(core_folder: Path) -> None:
    shard = next((core_folder / "model_and_optim").glob("*.distcp"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    message = refusal(core_folder, lambda found: found.weights)
    assert message.endswith(f"to {len(data)} (it has {len(data) - 1} bytes); it is cut off, fetch it again")


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_an_archive_cut_off(keep: float, bin_folder: Path) -> None:
    path = bin_folder / "pytorch_model.bin"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if keep == 0.5 else int(keep)])
    message = refusal(bin_folder, lambda found: found.weights)
    assert message.startswith("pytorch_model.bin must be a zip of torch.save, but it ")
    assert message.endswith("; fetch the file again")


def rezip(path: Path, change: Callable[[str, bytes], bytes | None], method: int = zipfile.ZIP_STORED) -> None:
    """Write an archive again, with its members changed or left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    path.write_bytes(buffer.getvalue())


def test_archives_that_contradict_themselves(bin_folder: Path) -> None:
    path = bin_folder / "pytorch_model.bin"
    data = path.read_bytes()

    def came(change: Callable[[str, bytes], bytes | None], method: int = zipfile.ZIP_STORED) -> str:
        path.write_bytes(data)
        rezip(path, change, method)
        return refusal(bin_folder, lambda found: found.weights)

    assert "compressed or encrypted" in came(lambda _, raw: raw, zipfile.ZIP_DEFLATED)
    assert came(lambda name, raw: None if name.endswith("data/1") else raw) == (
        "pytorch_model.bin: storage 1 must have 2048 bytes (found nothing); fetch it again"
    )
    assert came(lambda name, raw: raw[:-4] if name.endswith("data/1") else raw) == (
        "pytorch_model.bin: storage 1 must have 2048 bytes (found 2044 bytes); fetch it again"
    )
    assert "must hold a data.pkl of at most" in came(lambda name, raw: None if name.endswith("pkl") else raw)
    assert "its byteorder is b'big'" in came(lambda name, raw: b"big" if name.endswith("byteorder") else raw)
    rezip(path, lambda _, raw: raw)
    path.write_bytes(data)
    assert open_format(bin_folder).config["model_type"] == "olmo2"


def test_members_may_not_overlap(bin_folder: Path) -> None:
    path = bin_folder / "pytorch_model.bin"
    rezip(path, lambda _, raw: raw)
    data = bytearray(path.read_bytes())
    entries = [at for at in range(len(data)) if data[at : at + 4] == b"PK\1\2"]
    first = data[entries[0] + 42 : entries[0] + 46]
    data[entries[-1] + 42 : entries[-1] + 46] = first  # the last member claims the place of the first
    path.write_bytes(data)
    assert "is not where the directory says" in refusal(bin_folder, lambda found: found.weights)


@pytest.mark.parametrize("rows", [31, 33, 48])
def test_a_fused_tensor_of_impossible_size_is_left_whole(rows: int, tmp_path: Path) -> None:
    name = "transformer.blocks.0.att_proj.weight"
    folder = write_native(tmp_path / "step7", native_config(TINY), {name: torch.zeros(rows, 16)})
    found = open_format(folder)
    assert {each: info.shape for each, info in found.weights.infos.items()} == {name: (rows, 16)}
    assert refusal(folder, lambda found: found.optimizer) == (
        f"fused tensor {name} has shape [{rows}, 16], but by its config it must hold 16 + 8 + 8 rows of 16; "
        "config and weights are of different models"
    )


def test_an_unknown_tensor_keeps_its_name(tmp_path: Path) -> None:
    name = "transformer.blocks.0.att_proj.scale"
    folder = write_native(tmp_path / "step7", native_config(TINY), {name: torch.zeros(3)})
    assert list(open_format(folder).weights.infos) == [name]
    assert refusal(folder, lambda found: found.optimizer) == (
        f"tensor '{name}' is unknown in this format; its place in the model cannot be told"
    )


def test_a_git_lfs_pointer_in_place_of_a_shard(core_folder: Path) -> None:
    shard = next((core_folder / "model_and_optim").glob("*.distcp"))
    shard.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n")
    assert refusal(core_folder, lambda found: found.weights) == (
        f"model_and_optim/{shard.name} is a Git LFS pointer, which stands in place of the file itself; run `git lfs pull` "
        "in its repository"
    )


def test_the_same_tensor_under_two_names(tmp_path: Path) -> None:
    names = ["transformer.wte.weight", "_fsdp_wrapped_module.transformer.wte.weight"]
    folder = write_native(tmp_path / "step7", native_config(TINY), {name: torch.zeros(32, 16) for name in names})
    assert refusal(folder, lambda found: found.weights) == (
        f"tensor model.embed_tokens.weight is stored twice, as {names[0]} and {names[1]}; use another copy"
    )


def test_an_unknown_optimizer(native_folder: Path) -> None:
    lion = {
        "state": {0: {"exp_avg": torch.zeros(32, 16)}},
        "param_groups": [{"params": [0], "param_names": ["transformer.wte.weight"]}],
    }
    (native_folder / "optim.pt").write_bytes(saved(lion))
    assert refusal(native_folder, lambda found: found.optimizer) == (
        "optim.pt: transformer.wte.weight must also have exp_avg_sq, step (got exp_avg); only AdamW's state can be read"
    )


def test_an_old_optimizer_counts_in_plain_numbers(native_folder: Path) -> None:
    entry = {"exp_avg": torch.zeros(32, 16), "exp_avg_sq": torch.zeros(32, 16), "step": 12}
    names = ["transformer.wte.weight"]
    (native_folder / "optim.pt").write_bytes(saved({"state": {names[0]: entry}, "param_groups": [{"params": names}]}))
    optimizer = open_format(native_folder).optimizer
    assert optimizer is not None
    assert optimizer.steps == {"model.embed_tokens.weight": 12.0}


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([{"params": [0, 1], "param_names": ["a"]}], ": a group numbers 2 parameters, but does not name as many"),
        ([{"params": [0]}], ": a group numbers 1 parameters, but does not name as many"),
        ([], ": parameter 0 is in no group; fetch the file again"),
        (None, " must hold param_groups, each with params; fetch the file again"),
    ],
)
def test_groups_that_do_not_fit(groups: object, problem: str, native_folder: Path) -> None:
    (native_folder / "optim.pt").write_bytes(saved({"state": {0: {}}, "param_groups": groups}))
    assert refusal(native_folder, lambda found: found.optimizer) == f"optim.pt{problem}"


def test_configs_that_are_none(bin_folder: Path) -> None:
    (bin_folder / "config.json").write_text(json.dumps([1]))
    assert (
        refusal(bin_folder, lambda found: found.config)
        == "config.json must be a JSON object (got [1]); fetch the file again"
    )
    (bin_folder / "config.json").unlink()
    assert refusal(bin_folder, lambda found: found.config) == (
        "a checkpoint in pytorch format must have config.json, which is missing; fetch it"
    )


@pytest.mark.parametrize("text", ["- 1", "{", "a: [", yaml.safe_dump("x")])
def test_yaml_that_is_none(text: str, native_folder: Path) -> None:
    (native_folder / "config.yaml").write_text(text)
    assert refusal(native_folder, lambda found: found.config).startswith("config.yaml must be YAML of plain fields (")


def test_an_index_that_is_none(core_folder: Path) -> None:
    (core_folder / "model_and_optim" / ".metadata").write_bytes(pickle.dumps({"a": 1}))
    assert "is not the index of a distributed checkpoint" in refusal(core_folder, lambda found: found.weights)


def test_an_index_without_weights(tmp_path: Path) -> None:
    folder = write_core(tmp_path / "step7", core_experiment(TINY), {})
    assert refusal(folder, lambda found: found.weights) == (
        "model_and_optim/.metadata must list tensors that begin with `model.` (it lists 0 others)"
    )
