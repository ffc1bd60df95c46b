"""The two runs that Ai2's own trainers wrote: every number equals what torch reads from the same files."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from olmo_dynamics.checkpoints.formats import Format
from tests.checkpoints.formats.conftest import assert_same, open_format, tensors_of
from tests.checkpoints.formats.writing import alone

STEPS = (40, 80)


@pytest.fixture(params=STEPS)
def native(request: pytest.FixtureRequest, shared: Path) -> tuple[Path, Format]:
    return _open(shared / f"data/native/olmo/tiny-olmo2/step{request.param}-unsharded")


@pytest.fixture(params=STEPS)
def core(request: pytest.FixtureRequest, shared: Path) -> tuple[Path, Format]:
    return _open(shared / f"data/native/olmo_core/tiny-olmo3/step{request.param}")


def _open(folder: Path) -> tuple[Path, Format]:
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not among the real inputs")
    return folder, open_format(folder)


def cut(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The native run's tensors under canonical names, written out by hand: 4 layers, width 64, 4 heads, no grouped keys."""
    found = {
        "model.embed_tokens.weight": tensors["transformer.wte.weight"],
        "model.norm.weight": tensors["transformer.ln_f.weight"],
        "lm_head.weight": tensors["transformer.ff_out.weight"],
    }
    for layer in range(4):
        old, new = f"transformer.blocks.{layer}", f"model.layers.{layer}"
        query, key, value = tensors[f"{old}.att_proj.weight"].split(64)
        up, gate = tensors[f"{old}.ff_proj.weight"].split(128)
        found |= {
            f"{new}.self_attn.q_proj.weight": query,
            f"{new}.self_attn.k_proj.weight": key,
            f"{new}.self_attn.v_proj.weight": value,
            f"{new}.self_attn.o_proj.weight": tensors[f"{old}.attn_out.weight"],
            f"{new}.self_attn.q_norm.weight": tensors[f"{old}.q_norm.weight"],
            f"{new}.self_attn.k_norm.weight": tensors[f"{old}.k_norm.weight"],
            f"{new}.mlp.up_proj.weight": up,
            f"{new}.mlp.gate_proj.weight": gate,
            f"{new}.mlp.down_proj.weight": tensors[f"{old}.ff_out.weight"],
            f"{new}.post_attention_layernorm.weight": tensors[f"{old}.attn_norm.weight"],
            f"{new}.post_feedforward_layernorm.weight": tensors[f"{old}.ff_norm.weight"],
        }
    return found


class TestNative:
    def test_weights_equal_torchs(self, native: tuple[Path, Format]) -> None:
        folder, found = native
        assert found.name == "olmo"
        assert_same(tensors_of(found.weights), cut(torch.load(folder / "model.pt", weights_only=True)))

    def test_weights_are_views_of_the_file(self, native: tuple[Path, Format]) -> None:
        _, found = native
        assert all(info.file == "model.pt" for info in found.weights.infos.values())
        raw = found.weights.read("model.layers.2.self_attn.v_proj.weight")
        assert not raw.flags.owndata

    def test_optimizer_equals_torchs(self, native: tuple[Path, Format]) -> None:
        folder, found = native
        state = found.optimizer
        assert state is not None
        written = torch.load(folder / "optim.pt", weights_only=True)
        names = [name.removeprefix("module.") for group in written["param_groups"] for name in group["param_names"]]
        for kind in ("exp_avg", "exp_avg_sq"):
            by_name = {name: written["state"][number][kind] for number, name in enumerate(names)}
            assert_same(tensors_of(state.moments[kind]), cut(by_name))
        assert set(state.steps) == set(found.weights.infos)
        assert set(state.steps.values()) == {float(written["state"][0]["step"])}
        decayed, embedding = state.groups
        assert embedding["params"] == ["model.embed_tokens.weight"]
        assert set(decayed["params"]) == set(found.weights.infos) - {"model.embed_tokens.weight"}
        for group, original in zip(state.groups, written["param_groups"], strict=True):
            hidden = {"params", "param_names"}
            assert {k: v for k, v in group.items() if k not in hidden} == {
                k: v for k, v in original.items() if k not in hidden
            }

    def test_trainer_equals_torchs(self, native: tuple[Path, Format]) -> None:
        folder, found = native
        assert_equal(found.trainer, torch.load(folder / "train.pt", weights_only=False))
        assert found.recipe["optimizer"]["betas"] == [0.9, 0.95]

    def test_config_describes_the_tensors(self, native: tuple[Path, Format]) -> None:
        _, found = native
        assert found.config["model_type"] == "olmo2"
        assert found.config["vocab_size"] == 512
        assert found.config["intermediate_size"] == 128


@dataclass
class _StorageInfo:
    """The part of OLMo-core's class that its pickles need."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: list[str] | None = field(default=None)


class _CoreUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _StorageInfo if module.startswith("olmo_core") else super().find_class(module, name)


class _CoreReader(dcp.FileSystemReader):
    """Torch's own reader, with OLMo-core's one class added."""

    def read_metadata(self, *_: Any, **__: Any) -> Any:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _CoreUnpickler(file).load()
        self.storage_data = metadata.storage_data
        return metadata


def load_core(folder: Path) -> dict[str, Any]:
    """Everything in a distributed checkpoint, read by torch."""
    reader = _CoreReader(folder)
    metadata = reader.read_metadata()
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype) if hasattr(entry, "size") else None
        for name, entry in metadata.state_dict_metadata.items()
    }
    with alone():
        dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OLMo-core's tensors under canonical names, written out by hand."""
    table = {
        "embeddings": "model.embed_tokens", "lm_head.norm": "model.norm", "lm_head.w_out": "lm_head",
        "attention.w_q": "self_attn.q_proj", "attention.w_k": "self_attn.k_proj", "attention.w_v": "self_attn.v_proj",
        "attention.w_out": "self_attn.o_proj", "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm", "attention_norm": "post_attention_layernorm",
        "feed_forward_norm": "post_feedforward_layernorm", "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj", "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip
    found = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.startswith("blocks."):
            _, layer, part = stem.split(".", 2)
            found[f"model.layers.{layer}.{table[part]}.weight"] = tensor
        else:
            found[f"{table[stem]}.weight"] = tensor
    return found


class TestCore:
    @pytest.fixture
    def written(self, core: tuple[Path, Format]) -> dict[str, Any]:
        return load_core(core[0] / "model_and_optim")

    def test_weights_equal_torchs(self, core: tuple[Path, Format], written: dict[str, Any]) -> None:
        _, found = core
        model = {name.removeprefix("model."): value for name, value in written.items() if name.startswith("model.")}
        assert len(model) == 47
        assert_same(tensors_of(found.weights), renamed(model))

    def test_optimizer_equals_torchs(self, core: tuple[Path, Format], written: dict[str, Any]) -> None:
        folder, found = core
        state = found.optimizer
        assert state is not None
        for kind in ("exp_avg", "exp_avg_sq", "step"):
            by_name = {
                name.removeprefix("optim.state.").removesuffix(f".{kind}"): value
                for name, value in written.items()
                if name.startswith("optim.state.") and name.endswith(f".{kind}")
            }
            if kind == "step":
                assert state.steps == {name: float(step) for name, step in renamed(by_name).items()}
            else:
                assert_same(tensors_of(state.moments[kind]), renamed(by_name))
        assert set(state.steps.values()) == {int(folder.name.removeprefix("step")) + 1.0}  # counted one ahead
        embedding, others = state.groups
        assert embedding["params"] == ["model.embed_tokens.weight"]
        assert (embedding["weight_decay"], others["weight_decay"]) == (0.0, 0.1)
        assert len(others["params"]) == 46
        assert others["lr"] == written["optim.param_groups.lm_head.w_out.weight.lr"]
        assert others["betas"] == written["optim.param_groups.lm_head.w_out.weight.betas"]

    def test_trainer_equals_torchs(self, core: tuple[Path, Format]) -> None:
        folder, found = core
        assert_equal(found.trainer, torch.load(folder / "train" / "rank0.pt", weights_only=False))
        assert found.trainer["data_loader"]["tokens_processed"] == found.trainer["global_train_tokens_seen"]

    def test_config_describes_the_model(self, core: tuple[Path, Format]) -> None:
        _, found = core
        assert found.config["model_type"] == "olmo3"
        assert found.config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
        assert found.config["sliding_window"] == 32


def assert_equal(found: Any, wanted: Any) -> None:
    """Assert equality, with paths as text and tensors as arrays."""
    if isinstance(wanted, torch.Tensor):
        wanted = wanted.numpy()
    if isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            assert_equal(found[key], value)
    elif isinstance(wanted, list | tuple):
        assert type(found) is type(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, Path):
        assert found == str(wanted)
    else:
        assert type(found) is type(wanted)
        assert found == wanted
