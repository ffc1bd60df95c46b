"""Recording parameters needs the headers of weights, and nothing that only a forward pass needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.errors import CheckpointError, UnknownModelError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.model import MODEL_TYPES
from tests.listening import Notes
from tests.runs import edit_config, write_revision

Weights = dict[str, np.ndarray]


@pytest.fixture
def revision(tmp_path: Path) -> Path:
    return write_revision(tmp_path / "run" / "step100", 1)


def rewrite(revision: Path, change: Callable[[Weights], Weights]) -> Weights:
    file = revision / "model.safetensors"
    weights = change(load_file(file))
    save_file({name: np.ascontiguousarray(each) for name, each in weights.items()}, file, metadata={"format": "pt"})
    return weights


def measured(revision: Path, listener: Notes | None = None, **options: Any) -> RecordedStore:
    return collect(
        revision.parent,
        out=revision.parent.parent / "store.zarr",
        record=["parameters"],
        progress=listener or Notes(),
        **options,
    )


def assert_measured(store: RecordedStore, weights: Weights) -> None:
    """Assert the names, and NumPy's RMS of the values in float64."""
    rows = {row["tensor"]: row["rms"] for row in store.table("parameters").iter_rows(named=True)}
    assert rows.keys() == weights.keys()
    for name, values in weights.items():
        assert rows[name] == pytest.approx(np.sqrt(np.mean(values.astype(np.float64) ** 2)), rel=1e-12), name


CONFIGS: dict[str, dict[str, Any]] = {
    "linear RoPE": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": None},
    "biases": {"attention_bias": True},
    "another activation": {"hidden_act": "gelu"},
    "quantised": {"quantization_config": {"quant_method": "fp8"}},
    "other sizes": {"hidden_size": 48, "num_hidden_layers": 7, "vocab_size": 5},
    "numbers as text": {"num_hidden_layers": "many"},
    "another family": {"model_type": "olmo"},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_does_not_suit_the_forward_pass(changes: dict[str, Any], revision: Path) -> None:
    edit_config(revision, **changes)
    listener = Notes()
    assert_measured(measured(revision, listener), load_file(revision / "model.safetensors"))
    assert listener.notes == []


@pytest.mark.parametrize("config", [None, b"not JSON", b"[1, 2]", b"{}", b"\xff"])
def test_no_config_at_all(config: bytes | None, revision: Path) -> None:
    path = revision / "config.json"
    path.unlink() if config is None else path.write_bytes(config)
    store = measured(revision)
    assert_measured(store, load_file(revision / "model.safetensors"))
    assert store.attributes["model_type"] == "unknown"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b'{"model_type": "olmo2",', "Expecting property name enclosed in double quotes: line 1 column 24 (char 23)"),
        (b'{"model_type": "olmo2", "vocab_size": 1, "vocab_size": 2}', "key 'vocab_size' appears 2 times"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_a_damaged_config_is_named_and_not_taken_for_a_model_of_an_unknown_type(
    config: bytes, reason: str, revision: Path
) -> None:
    (revision / "config.json").write_bytes(config)
    with pytest.raises(CheckpointError) as caught:
        plan(revision.parent, batch="2x16")
    assert str(caught.value) == (
        f"{revision.parent}@step100: config.json must be JSON (got {config[:40]!r}: {reason}); fetch the file again; "
        "or record parameters only, which needs no forward pass"
    )


def test_weights_without_a_config_are_measured_alone_and_the_reason_is_told(revision: Path) -> None:
    (revision / "config.json").unlink()
    listener = Notes()
    store = collect(revision.parent, out=revision.parent.parent / "store.zarr", batch="2x16", progress=listener)
    assert_measured(store, load_file(revision / "model.safetensors"))
    assert listener.notes == [
        f"{revision.parent}@step100 has no file config.json; among its 3 files are generation_config.json, "
        "model.safetensors, tokenizer.json; only weights are measured"
    ]


@pytest.mark.parametrize("kind", ["compiled", "base class", "buffer", "other norms"])
def test_tensors_that_do_not_suit_the_forward_pass(kind: str, revision: Path) -> None:
    weights = load_file(revision / "model.safetensors")
    expected = dict(weights)
    if kind == "compiled":
        stored = {f"_orig_mod.{name}": each for name, each in weights.items()}
    elif kind == "base class":
        del expected["lm_head.weight"]
        stored = {name.removeprefix("model."): each for name, each in expected.items()}
    elif kind == "buffer":
        stored = expected = weights | {"model.layers.0.self_attn.bias": np.ones((4, 4), np.float32)}
    else:
        stored = expected = {
            name.replace("post_attention_layernorm", "input_norm"): each for name, each in weights.items()
        }
    rewrite(revision, lambda _: stored)
    assert_measured(measured(revision), expected)


def quantize(weights: Weights) -> Weights:
    """GPTQ's tensors in place of the projections."""
    found = {name: each for name, each in weights.items() if "_proj" not in name}
    for name, each in weights.items():
        if "_proj" in name:
            base, (rows, columns) = name.removesuffix("weight"), each.shape
            found |= {
                f"{base}qweight": np.ones((columns // 8, rows), np.int32),
                f"{base}qzeros": np.ones((1, rows // 8), np.int32),
                f"{base}scales": np.full((1, rows), 0.25, np.float16),
            }
    return found


def test_of_a_quantised_model_the_floats_are_measured_and_the_words_are_named(revision: Path) -> None:
    weights = rewrite(revision, quantize)
    edit_config(revision, quantization_config={"quant_method": "gptq", "bits": 4})
    listener = Notes()
    floats = {name: each for name, each in weights.items() if each.dtype != np.int32}
    note = (
        "step100: 28 tensors are not measured, since they hold packed or whole numbers, which are not weights: "
        f"qweight (I32), qzeros (I32); {len(floats)} tensors are measured"
    )
    assert plan(revision.parent, record=["parameters"]).notes == (note,)
    assert_measured(measured(revision, listener), floats)
    assert listener.notes == [note]
    with pytest.raises(
        CheckpointError, match=r"^step100: quantization_config must be absent .*; record parameters only"
    ):
        plan(revision.parent, record=["activations"])


def test_float8_is_measured_and_scales_beside_it_are_mentioned(revision: Path) -> None:
    weights = load_file(revision / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    codes = np.random.default_rng(0).integers(0, 0x7E, weights[name].shape, dtype=np.uint8)
    rewrite(revision, lambda weights: weights | {name: codes, name + "_scale": np.ones(1, np.float32)})
    file = revision / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header[name]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    exponent, mantissa = codes.astype(int) >> 3, codes & 7
    values = np.where(exponent > 0, 2.0 ** (exponent - 7) * (1 + mantissa / 8), 2.0**-6 * mantissa / 8)
    listener = Notes()
    store = measured(revision, listener)
    assert_measured(store, weights | {name: values, name + "_scale": np.ones(1)})
    assert listener.notes == ["step100: measured as they are stored, without the scales beside them: q_proj (F8_E4M3)"]


def test_an_adapter_is_measured_under_its_own_names(revision: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (revision / name).unlink()
    (revision / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    base = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    weights = {f"{base}A.weight": np.full((4, 32), 2, np.float32), f"{base}B.weight": np.ones((32, 4), np.float32)}
    save_file(weights, revision / "adapter_model.safetensors")
    assert_measured(measured(revision), weights)
    alone = collect(revision, out=revision.parent.parent / "alone.zarr", record=["parameters"], progress=Notes())
    assert alone.done == {"step100"}


def test_tied_weights_stored_as_the_head_alone(revision: Path) -> None:
    weights = load_file(revision / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    rewrite(revision, lambda _: weights)
    edit_config(revision, tie_word_embeddings=True)
    expected = weights | {"model.embed_tokens.weight": weights["lm_head.weight"]}
    del expected["lm_head.weight"]
    assert_measured(measured(revision), expected)


def test_streams_of_another_width_are_measured_without_their_features(revision: Path) -> None:
    weights = rewrite(
        revision, lambda weights: weights | {"vision.layers.0.q_proj.weight": np.ones((8, 24), np.float32)}
    )
    edit_config(revision, model_type="seeing")
    store = measured(revision)
    assert_measured(store, weights)
    features = dict(
        zip(store.layout.axes["tensor"].labels, store.arrays("parameters")["residual_feature_l2"][0], strict=True)
    )
    assert np.isnan(features["vision.layers.0.q_proj.weight"]).all()
    assert np.isfinite(features["model.layers.0.self_attn.q_proj.weight"]).all()


def test_activations_are_refused_with_the_reason_and_the_advice(revision: Path) -> None:
    rewrite(revision, lambda weights: weights | {"model.layers.0.self_attn.bias": np.ones((4, 4), np.float32)})
    with pytest.raises(CheckpointError) as caught:
        plan(revision.parent, record=["activations"])
    assert str(caught.value) == (
        "step100: tensors must have the 25 names and shapes of config.json (got 1 unexpected: "
        "model.layers.0.self_attn.bias [4, 4]); check that config.json and the weights are of one revision; or record "
        "parameters only, which needs no forward pass"
    )


OTHERS: dict[str, Weights] = {
    "qwen3": {"model.layers.0.self_attn.q_norm.weight": np.full(8, 0.5, np.float32)},
    "olmo_hybrid": {
        "model.layers.0.linear_attn.A_log": np.full(4, -2.0, np.float32),
        "model.layers.0.linear_attn.q_conv1d.weight": np.full((8, 1, 4), 0.25, np.float32),
    },
}
"""Tensors of families whose forward pass is not implemented."""


@pytest.mark.parametrize("family", OTHERS)
def test_weights_of_other_families_are_measured_and_their_forward_pass_is_refused(family: str, revision: Path) -> None:
    weights = rewrite(revision, lambda weights: weights | OTHERS[family])
    edit_config(revision, model_type=family)
    refusal = (
        f"model_type must be one of {', '.join(MODEL_TYPES)} to run a forward pass (got {family!r}); record parameters only, "
        "which needs no forward pass"
    )
    listener = Notes()
    store = collect(revision.parent, out=revision.parent.parent / "store.zarr", progress=listener)
    assert_measured(store, weights)
    assert set(store.groups) == {"parameters"} and listener.notes == [refusal]
    with pytest.raises(UnknownModelError) as caught:
        plan(revision.parent, record=["activations"])
    assert str(caught.value) == f"step100: {refusal}"
