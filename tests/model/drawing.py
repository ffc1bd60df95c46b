"""Tiny models of every shape the config allows, here and in transformers, with the same weights."""

from dataclasses import replace

import torch
import transformers
from hypothesis import strategies as st
from torch import Tensor

from olmo_dynamics.model import ModelConfig, Olmo2, build_model, load_model_weights, to_config_json


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    return ModelConfig(
        hidden_size=draw(st.sampled_from([24, 48, 96])),
        layers=draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([2, 8, 16])),
        intermediate_size=draw(st.sampled_from([16, 40, 96])),
        vocab_size=draw(st.sampled_from([32, 97])),
        max_positions=64,
        norm_eps=draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        rope_theta=draw(st.sampled_from([100.0, 1e4, 5e5])),
        tied_embeddings=draw(st.booleans()),
    )


def tiny_config(**changes: object) -> ModelConfig:
    plain = ModelConfig(
        hidden_size=48,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=12,
        intermediate_size=64,
        vocab_size=97,
        max_positions=64,
        norm_eps=1e-6,
        rope_theta=1e4,
    )
    return replace(plain, **changes)


def random_model(config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Olmo2:
    """Weights far from their beginning: gains between 0.5 and 1.5, matrices that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: torch.Size) -> Tensor:
        if len(shape) == 1:
            return 0.5 + torch.rand(shape, generator=generator)
        return torch.randn(shape, generator=generator) * shape[1] ** -0.5

    model = build_model(config, dtype=dtype)
    load_model_weights(model, {name: drawn(tensor.shape) for name, tensor in model.state_dict().items()})
    return model


def random_tokens(config: ModelConfig, sequences: int, positions: int, *, seed: int = 0) -> Tensor:
    return torch.randint(config.vocab_size, (sequences, positions), generator=torch.Generator().manual_seed(seed))


def same_in_transformers(model: Olmo2, attention: str = "sdpa") -> transformers.Olmo2ForCausalLM:
    """transformers' model with this model's weights and dtype."""
    config = transformers.Olmo2Config(**to_config_json(model.config))
    # from_config, because .to(bfloat16) would round the RoPE frequencies, which from_pretrained does not
    theirs = transformers.AutoModelForCausalLM.from_config(
        config, dtype=model.model.norm.weight.dtype, attn_implementation=attention
    )
    loaded = theirs.load_state_dict(model.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == (["lm_head.weight"] if model.config.tied_embeddings else [])
    return theirs.eval()


def distance(ours: Tensor, theirs: Tensor) -> float:
    """‖ours - theirs‖ / ‖theirs‖, in float64; 0 where both vanish."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
