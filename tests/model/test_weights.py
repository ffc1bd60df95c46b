"""From stored bytes to weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from olmo_dynamics.errors import CheckpointError, ShapeError
from olmo_dynamics.model import ModelConfig, build_model, check_shapes, expected_shapes, load_model_weights, to_tensor
from olmo_dynamics.names import TensorInfo
from tests.model.drawing import random_model, random_tokens, tiny_config


def info(dtype: str, shape: tuple[int, ...], nbytes: int) -> TensorInfo:
    return TensorInfo("model.norm.weight", dtype, shape, "model.safetensors", 0, nbytes)


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values as a file holds them; bfloat16 by cutting off the lower half of float32."""
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).view(np.uint8)


@settings(max_examples=20)
@given(
    dtype=st.sampled_from(["F64", "F32", "BF16", "F16"]),
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
    seed=st.integers(0, 99),
)
def test_a_tensor_has_the_stored_values(dtype, shape, seed):
    values = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.float64) / 8  # exact in every dtype
    raw = stored(values.reshape(-1), dtype)
    raw.flags.writeable = False
    tensor = to_tensor(raw, info(dtype, shape, raw.nbytes))
    assert tensor.shape == shape
    assert (
        tensor.dtype
        == {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[dtype]
    )
    assert np.array_equal(tensor.double().numpy(), values)


def test_a_tensor_is_the_stored_bytes_not_a_copy():
    raw = np.zeros(8, np.uint8)
    tensor = to_tensor(raw, info("F32", (2,), 8))
    assert tensor.data_ptr() == raw.ctypes.data
    raw[:] = np.array([3.0, -4.0], "<f4").view(np.uint8)
    assert tensor.tolist() == [3.0, -4.0]


def test_a_tensor_keeps_its_bytes_alive():
    tensor = to_tensor(
        np.frombuffer(bytearray(np.arange(1000, dtype="<f4").tobytes()), np.uint8), info("F32", (1000,), 4000)
    )
    other = [np.full(4000, 255, np.uint8) for _ in range(50)]
    assert len(other) == 50
    assert torch.equal(tensor, torch.arange(1000, dtype=torch.float32))


def test_bytes_between_element_boundaries_are_copied():
    raw = np.concatenate([np.zeros(1, np.uint8), np.array([3.0, -4.0], "<f4").view(np.uint8)])[1:]
    tensor = to_tensor(raw, info("F32", (2,), 8))
    assert tensor.data_ptr() != raw.ctypes.data
    assert tensor.tolist() == [3.0, -4.0]


def test_a_dtype_that_torch_lacks_is_refused():
    message = (
        r"^model\.norm\.weight must be one of F64, F32, BF16, F16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U8, BOOL \(got F4\); "
        r"convert the checkpoint$"
    )
    with pytest.raises(CheckpointError, match=message):
        to_tensor(np.zeros(8, np.uint8), info("F4", (16,), 8))


def test_too_few_bytes_are_refused():
    message = r"^model\.norm\.weight \[4\] F32 must be 16 bytes \(got 12\); fetch the checkpoint again$"
    with pytest.raises(CheckpointError, match=message):
        to_tensor(np.zeros(12, np.uint8), info("F32", (4,), 16))


def tensors_of(**changes: object) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in expected_shapes(tiny_config(**changes)).items()}


@pytest.mark.parametrize("tied", [False, True])
def test_shapes_that_the_config_promises_are_let_pass(tied):
    check_shapes(tiny_config(tied_embeddings=tied), tensors_of(tied_embeddings=tied))


def test_a_head_in_addition_to_tied_embeddings_is_accepted():
    check_shapes(tiny_config(tied_embeddings=True), tensors_of())


def test_shapes_are_read_from_tensor_infos_too():
    infos = {
        name: TensorInfo(name, "F32", shape, "model.safetensors", 0, 0)
        for name, shape in expected_shapes(tiny_config()).items()
    }
    check_shapes(tiny_config(), infos)


def test_contradicting_shapes_are_listed():
    came = tensors_of()
    del came["model.norm.weight"], came["lm_head.weight"]
    came["model.layers.0.input_layernorm.weight"] = torch.zeros(48)
    came["model.layers.2.mlp.up_proj.weight"] = torch.zeros(48, 64)
    message = (
        r"^tensors must have the 36 names and shapes of config\.json \(got "
        r"2 missing: model\.norm\.weight \[48\], lm_head\.weight \[97, 48\]; "
        r"1 unexpected: model\.layers\.0\.input_layernorm\.weight \[48\]; "
        r"1 mis-shaped: model\.layers\.2\.mlp\.up_proj\.weight must be \[64, 48\], got \[48, 64\]\); "
        r"check that config\.json and the weights are of one revision$"
    )
    with pytest.raises(ShapeError, match=message):
        check_shapes(tiny_config(), came)


def test_only_the_first_few_are_listed():
    came = {name: tensor for name, tensor in tensors_of().items() if "layers.1." not in name}
    message = (
        r" \(got 11 missing: model\.layers\.1\.self_attn\.q_proj\.weight \[48, 48\], "
        r"model\.layers\.1\.self_attn\.k_proj\.weight \[24, 48\], "
        r"model\.layers\.1\.self_attn\.v_proj\.weight \[24, 48\], …\); check"
    )
    with pytest.raises(ShapeError, match=message):
        check_shapes(tiny_config(), came)


def test_a_tied_head_of_another_shape_is_unexpected():
    came = tensors_of() | {"lm_head.weight": torch.zeros(5, 48)}
    with pytest.raises(ShapeError, match=r" \(got 1 unexpected: lm_head\.weight \[5, 48\]\); check"):
        check_shapes(tiny_config(tied_embeddings=True), came)


def test_loaded_weights_are_the_models_own():
    came = {name: tensor.bfloat16() for name, tensor in random_model(tiny_config()).state_dict().items()}
    model = build_model(tiny_config())
    load_model_weights(model, came)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, came[name].float())
        assert parameter.requires_grad
    again = build_model(tiny_config(), dtype=torch.bfloat16)
    load_model_weights(again, came)
    with torch.no_grad():
        again.model.norm.weight.zero_()
    assert came["model.norm.weight"].count_nonzero() == 48


def test_a_tied_model_takes_no_head():
    model = build_model(tiny_config(tied_embeddings=True))
    load_model_weights(model, random_model(tiny_config()).state_dict())
    token_ids = random_tokens(model.config, 1, 4)
    with torch.no_grad():
        assert torch.equal(model(token_ids), model.hidden(token_ids) @ model.model.embed_tokens.weight.T)


def test_weights_of_another_model_are_refused():
    came = random_model(tiny_config()).state_dict()
    del came["model.norm.weight"]
    came["lm_head.weight"] = torch.zeros(2, 48)
    message = (
        r"^weights must match the model's 36 parameters \(got none of the right shape for model\.norm\.weight, "
        r"lm_head\.weight\); call check_shapes for details$"
    )
    with pytest.raises(ShapeError, match=message):
        load_model_weights(build_model(tiny_config()), came)


def test_the_rows_of_another_release_are_noticed():
    came = {name: torch.empty(shape, device="meta") for name, shape in expected_shapes(published(100_278)).items()}
    check_shapes(published(100_278), came)
    message = (
        r" \(got 2 mis-shaped: model\.embed_tokens\.weight must be \[100352, 8\], got \[100278, 8\], "
        r"lm_head\.weight must be \[100352, 8\], got \[100278, 8\]\); check"
    )
    with pytest.raises(ShapeError, match=message):
        check_shapes(published(100_352), came)


def published(rows: int) -> ModelConfig:
    """Olmo 3's rows, cut to the tokenizer's or padded as its trainer pads them, on a narrow model."""
    return tiny_config("olmo3", vocab_size=rows, hidden_size=8)


def test_another_familys_tensors_are_refused():
    message = (
        r"^tensors must have the 23 names and shapes of config\.json \(got 13 unexpected: "
        r"model\.layers\.0\.self_attn\.q_norm\.weight \[48\], model\.layers\.0\.self_attn\.k_norm\.weight \[24\], "
        r"model\.layers\.0\.post_attention_layernorm\.weight \[48\], …\); check"
    )
    with pytest.raises(ShapeError, match=message):
        check_shapes(tiny_config("olmo"), tensors_of())
