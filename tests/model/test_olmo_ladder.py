"""OLMo ladder models: Ai2's own logits, configs and files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from olmo_dynamics.checkpoints import FolderSource
from olmo_dynamics.checkpoints.formats import canonical_config
from olmo_dynamics.checkpoints.formats.families.ladder_names import published_name
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.model import (
    LanguageModel,
    ModelConfig,
    Norms,
    build_model,
    check_shapes,
    expected_shapes,
    family_of,
    load_model_weights,
    parse_config,
    published_config,
    resolve_config,
    to_tensor,
)
from olmo_dynamics.names import Revision
from tests.checkpoints.formats.writing import FORMS, write_form
from tests.model.drawing import distance, random_model, random_tokens, tiny_config

LEAST = {
    "model_type": "olmo_ladder", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "vocab_size": 97, "layer_norm_type": "rms",
}  # fmt: skip
NATIVE = {
    "d_model": 16, "n_heads": 4, "n_layers": 2, "mlp_ratio": 8, "vocab_size": 29, "embedding_size": 32,
    "weight_tying": False, "rope": True, "include_bias": False, "layer_norm_type": "rms",
}  # fmt: skip


def opened(folder: Path) -> tuple[LanguageModel, dict[str, str]]:
    """The model of a revision's folder, and its tensors' published names."""
    with FolderSource(folder.parent).open(Revision(folder.name)) as checkpoint:
        config = resolve_config(checkpoint.config, checkpoint.tensors, checkpoint.read_many)
        check_shapes(config, checkpoint.tensors)
        model = build_model(config, device="cpu")
        tensors = {name: to_tensor(checkpoint.read(info), info) for name, info in checkpoint.tensors.items()}
        load_model_weights(model, tensors)
        return model, checkpoint.published_names


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [
        ("native/step100-unsharded", ""),
        ("safetensors/step0-seed-default", "model."),
        ("safetensors/step100-seed-default", "model."),
        ("bin/step100-seed-default", "model."),
    ],
)
def test_logits_are_those_of_ai2s_package(folder: str, prefix: str, shared: Path) -> None:
    ladder = shared / "data" / "ladder"
    if not ladder.is_dir():
        pytest.skip("the ladder models are not among the real inputs")
    model, published = opened(ladder / folder)
    with np.load(ladder / "expected.npz") as expected:
        tokens = torch.from_numpy(expected["tokens"])
        wanted = torch.from_numpy(expected["logits_step0" if "step0-" in folder else "logits_step100"])
    with torch.no_grad():
        assert (model(tokens) - wanted).abs().max() <= 1e-5
    assert model.config.norms == Norms() and model.config.model_type == "olmo_ladder"
    assert published == {
        name: prefix + published_name(name).removeprefix("model.") for name in expected_shapes(model.config)
    }


@pytest.mark.parametrize(("size", "sizes"), [("20M", (256, 8, 8, 1024)), ("150M", (768, 12, 12, 3072))])
def test_ai2s_configs_are_read(size: str, sizes: tuple[int, ...], shared: Path) -> None:
    path = shared / "data" / "olmo_configs" / "tiny" / f"OLMo-{size}.yaml"
    if not path.is_file():
        pytest.skip("the ladder's configs are not among the real inputs")
    config = parse_config(canonical_config(yaml.safe_load(path.read_text())["model"]))
    assert (config.hidden_size, config.layers, config.heads, config.intermediate_size) == sizes
    assert (config.vocab_size, config.norm_eps, config.max_positions) == (50304, 1e-6, 4096)
    assert (config.norms, config.tied_embeddings, config.kv_heads) == (Norms(), False, config.heads)


@pytest.mark.parametrize(
    ("fields", "norms", "norm_weights"),
    [
        ({}, Norms(), 5),
        ({"layer_norm_type": "default"}, Norms(centred=True), 5),
        ({"layer_norm_type": "low_precision", "bias_for_layer_norm": True}, Norms(centred=True, bias=True), 10),
        ({"layer_norm_with_affine": False}, Norms(weight=False), 0),
        ({"attention_layer_norm": True}, Norms(on_queries=True), 9),
        (
            {"attention_layer_norm": True, "attention_layer_norm_with_affine": False},
            Norms(on_queries=True, query_weight=False),
            5,
        ),
    ],
)
def test_the_trainers_norms_are_read(fields: dict[str, object], norms: Norms, norm_weights: int) -> None:
    config = parse_config(canonical_config(NATIVE | fields))
    assert config.norms == norms
    assert sum("norm" in name for name in expected_shapes(config)) == norm_weights
    assert replace(parse_config(canonical_config(published_config(config))), eos_token_id=config.eos_token_id) == config


def write_published(folder: Path, model: LanguageModel, form: str) -> None:
    folder.mkdir(parents=True)
    config = published_config(model.config, dtype="float32")
    tensors = {
        name: each.contiguous()
        for name, each in family_of(model.config.model_type).publish(model.config, model.state_dict()).items()
    }
    if form == "native":
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": config}))
        torch.save({name.removeprefix("model."): each for name, each in tensors.items()}, folder / "model.pt")
        return
    (folder / "config.json").write_text(json.dumps(config))
    write_form(folder, tensors, form)


KINDS = {
    "grouped and clipped": {"clip_qkv": 0.5},
    "tied LayerNorm with biases": {"norms": Norms(centred=True, bias=True), "tied_embeddings": True},
    "one key head, norms of queries": {"norms": Norms(on_queries=True), "kv_heads": 1},
}


@pytest.mark.parametrize("form", [*FORMS, "native"])
def test_every_form_of_every_kind_gives_the_model_that_was_written(form: str, tmp_path: Path) -> None:
    for kind, changes in KINDS.items():
        config: ModelConfig = tiny_config("olmo_ladder", layers=2, **changes)
        model, folder = random_model(config), tmp_path / kind / "step1"
        write_published(folder, model, form)
        found, _ = opened(folder)
        assert found.config == replace(config, pad_token_id=None, eos_token_id=None)
        assert found.state_dict().keys() == model.state_dict().keys()
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name
        token_ids = random_tokens(config, 1, 5)
        with torch.no_grad():
            assert distance(found(token_ids), model(token_ids)) <= 1e-6


def test_up_lies_above_gate_and_queries_above_keys() -> None:
    model = random_model(tiny_config("olmo_ladder"))
    state, config = model.state_dict(), model.config
    published = family_of("olmo_ladder").publish(config, state)
    fused = published["model.transformer.blocks.1.ff_proj.weight"]
    assert torch.equal(fused[:64], state["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(fused[64:], state["model.layers.1.mlp.gate_proj.weight"])
    fused = published["model.transformer.blocks.1.att_proj.weight"]
    assert torch.equal(fused[:48], state["model.layers.1.self_attn.q_proj.weight"])
    assert torch.equal(fused[48:72], state["model.layers.1.self_attn.k_proj.weight"])
    assert torch.equal(published["model.transformer.ff_out.weight"], state["lm_head.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layer_norm_type": "amd_compatible"},
            "layer_norm_type must be 'rms' or 'default' or 'low_precision' for the forward pass implemented here "
            "(got 'amd_compatible'); record parameters only",
        ),
        (
            {"bias_for_layer_norm": True},
            "bias_for_layer_norm must be False with layer_norm_type 'rms' for the forward pass implemented here (got True); "
            "record parameters only",
        ),
        (
            {"head_dim": 8},
            "head_dim must be 12 or absent for the forward pass implemented here (got 8); record parameters only",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "rope_scaling must be of rope_type 'default' for the forward pass implemented here "
            "(got {'rope_type': 'linear', 'factor': 2.0}); record parameters only",
        ),
        (
            {"layer_norm_type": None},
            "config.json must give hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size, "
            "layer_norm_type (missing: layer_norm_type); add them",
        ),
    ],
)
def test_configs_of_other_models_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse_config(LEAST | changes)
    assert str(caught.value) == message
