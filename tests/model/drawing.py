"""Tiny models of every family and shape the config allows, here and in transformers, with the same weights."""

from dataclasses import replace
from typing import Any

import torch
import transformers
from hypothesis import strategies as st
from torch import Tensor

from olmo_dynamics.model import (
    MODEL_TYPES,
    DynamicScaling,
    Experts,
    LanguageModel,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    Norms,
    Yarn,
    build_model,
    family_of,
    load_model_weights,
    to_config_json,
)
from tests.model import ladder_reference  # noqa: F401  # lets transformers build the family that it has not

yarns = st.builds(
    Yarn,
    factor=st.sampled_from([1.0, 4.0, 8.0]),
    original_positions=st.sampled_from([8, 32, 8192]),
    beta_fast=st.sampled_from([32.0, 4.0]),
    attention_factor=st.sampled_from([None, 0.8]),
)


@st.composite
def configs(draw: st.DrawFn, model_type: str | None = None) -> ModelConfig:
    model_type = model_type or draw(st.sampled_from(MODEL_TYPES))
    kv_heads, layers = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 3))
    heads, hidden_size = kv_heads * draw(st.integers(1, 3)), draw(st.sampled_from([24, 48, 96]))
    head_dim = draw(st.sampled_from([2, 8, 16]))
    if model_type == "llama":  # transformers' has a hidden size that its heads divide
        head_dim, hidden_size = draw(st.sampled_from([4, 8, 16])), heads * draw(st.sampled_from([6, 12]))
    if model_type == "gpt_neox":
        kv_heads = heads
    if model_type in (
        "olmoe",
        "gpt_neox",
        "olmo_ladder",
    ):  # transformers' and Ai2's have heads that are the hidden size together
        head_dim = draw(st.sampled_from([8, 16]))
        hidden_size = heads * head_dim
    return ModelConfig(
        model_type=model_type,
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=draw(st.sampled_from([16, 40, 96])),
        vocab_size=draw(st.sampled_from([32, 97])),
        max_positions=draw(st.sampled_from([8, 64])),
        norm_eps=1e-5 if model_type == "olmo" else draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
        rope_theta=draw(st.sampled_from([100.0, 1e4, 5e5])),
        tied_embeddings=draw(st.booleans()),
        **{"yarn": draw(st.none() | yarns)} | draw(_PARTS[model_type](layers)),
    )


def _clipped(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"clip_qkv": st.sampled_from([None, 0.5, 8.0])})


def _sliding(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "sliding_window": st.integers(1, 9),
            "sliding_layers": st.lists(st.integers(0, layers - 1), min_size=1, unique=True).map(sorted).map(tuple),
            "sliding_rope_theta": st.sampled_from([None, 300.0]),
        }
    )


scalings = st.one_of(
    st.builds(LinearScaling, factor=st.sampled_from([1.0, 4.0])),
    st.builds(DynamicScaling, factor=st.sampled_from([2.0, 8.0])),
    st.builds(
        Llama3Scaling,
        factor=st.sampled_from([8.0, 32.0]),
        low_freq_factor=st.sampled_from([1.0, 2.0]),
        high_freq_factor=st.just(4.0),
        original_positions=st.sampled_from([8, 32, 8192]),
    ),
)


def _biased(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    ropes = st.fixed_dictionaries({"yarn": st.none() | yarns}) | st.fixed_dictionaries(
        {"yarn": st.none(), "scaling": scalings}
    )
    biases = st.fixed_dictionaries({"attention_bias": st.booleans(), "mlp_bias": st.booleans()})
    return st.builds(lambda one, other: one | other, ropes, biases)


def _partly_rotated(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    ropes = st.fixed_dictionaries({"yarn": st.none() | yarns}) | st.fixed_dictionaries(
        {"yarn": st.none(), "scaling": scalings}
    )
    parts = st.fixed_dictionaries(
        {
            "rotary_dim": st.sampled_from([4, 6, 8]),
            "activation": st.sampled_from(["gelu", "gelu_new", "gelu_fast"]),
            "attention_bias": st.booleans(),
            "parallel_residual": st.booleans(),
        }
    )
    return st.builds(lambda one, other: one | other, ropes, parts)


def _mixed(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    counts = st.integers(1, 6).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count)))
    experts = st.builds(lambda n, flag: Experts(count=n[0], per_token=n[1], renormalized=flag), counts, st.booleans())
    return st.fixed_dictionaries({"clip_qkv": st.sampled_from([None, 0.5]), "experts": experts})


def _normed(layers: int) -> st.SearchStrategy[dict[str, Any]]:
    flags = st.booleans()
    weighted = st.builds(Norms, centred=flags, weight=flags)
    biased = st.builds(Norms, centred=st.just(True), weight=flags, bias=flags)
    norms = st.builds(
        lambda each, on, weight: replace(each, on_queries=on, query_weight=weight or not on),
        weighted | biased,
        flags,
        flags,
    )
    return st.fixed_dictionaries({"clip_qkv": st.sampled_from([None, 0.5]), "norms": norms, "yarn": st.none()})


_PARTS = {
    "olmo": _clipped,
    "olmo2": lambda _: st.just({}),
    "olmo3": _sliding,
    "olmoe": _mixed,
    "llama": _biased,
    "gpt_neox": _partly_rotated,
    "olmo_ladder": _normed,
}

_PLAIN_PARTS: dict[str, dict[str, Any]] = {
    "olmo": {"clip_qkv": 0.5, "norm_eps": 1e-5},
    "olmo2": {},
    "olmo3": {"sliding_window": 4, "sliding_layers": (0, 1), "yarn": Yarn(factor=4.0, original_positions=8)},
    "olmoe": {"experts": Experts(count=5, per_token=2)},
    "olmo_ladder": {"norms": Norms()},
    "gpt_neox": {
        "kv_heads": 4,
        "rotary_dim": 6,
        "activation": "gelu",
        "attention_bias": True,
        "parallel_residual": True,
    },
    "llama": {
        "attention_bias": True,
        "scaling": Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=16),
    },
}


def tiny_config(model_type: str = "olmo2", **changes: Any) -> ModelConfig:
    """Three layers with grouped heads, and all that the family has; with changes."""
    plain = ModelConfig(
        model_type="olmo2",
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
    return replace(plain, **({"model_type": model_type} | _PLAIN_PARTS[model_type] | changes))


def random_model(config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Weights far from their beginning: gains between 0.5 and 1.5, matrices that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: torch.Size) -> Tensor:
        if len(shape) == 1:
            return 0.5 + torch.rand(shape, generator=generator)
        return torch.randn(shape, generator=generator) * shape[1] ** -0.5

    model = build_model(config, dtype=dtype)
    load_model_weights(model, {name: drawn(tensor.shape) for name, tensor in model.state_dict().items()})
    return model


def has_norm_bias(config: ModelConfig) -> bool:
    """True if the final norm has a bias."""
    norms = config.norms
    return config.model_type == "gpt_neox" or (norms is not None and norms.weight and norms.bias)


def random_tokens(config: ModelConfig, sequences: int, positions: int, *, seed: int = 0) -> Tensor:
    return torch.randint(config.vocab_size, (sequences, positions), generator=torch.Generator().manual_seed(seed))


def same_in_transformers(model: LanguageModel, attention: str = "sdpa") -> transformers.PreTrainedModel:
    """transformers' model with this model's weights and dtype."""
    config = transformers.AutoConfig.for_model(**to_config_json(model.config))
    # from_config, because .to(bfloat16) would round the RoPE frequencies, which from_pretrained does not
    theirs = transformers.AutoModelForCausalLM.from_config(
        config,
        dtype=model.model.embed_tokens.weight.dtype,
        attn_implementation=attention,
        experts_implementation="eager",
    )
    loaded = theirs.load_state_dict(as_in_transformers(model.config, model.state_dict()), strict=False)
    assert loaded.unexpected_keys == []
    assert loaded.missing_keys == (["lm_head.weight"] if model.config.tied_embeddings else [])
    return theirs.eval()


def as_in_transformers(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as transformers holds them in memory, from those of our model."""
    if config.model_type == "olmo_ladder":
        return dict(tensors)  # whose published names are not transformers'
    return family_of(config.model_type).publish(config, fused_experts(tensors))


def fused_experts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors as transformers 5 holds them in memory: a layer's experts in one, gate above up."""
    apart = {name: tensor for name, tensor in tensors.items() if ".experts." in name and name.endswith("_proj.weight")}
    fused = {}
    for experts in {name.partition(".experts.")[0] + ".experts" for name in apart}:
        count = sum(name.startswith(f"{experts}.") for name in apart) // 3
        gate, up, down = (
            torch.stack([apart[f"{experts}.{expert}.{role}_proj.weight"] for expert in range(count)])
            for role in ("gate", "up", "down")
        )
        fused |= {f"{experts}.gate_up_proj": torch.cat((gate, up), dim=1), f"{experts}.down_proj": down}
    return {name: tensor for name, tensor in tensors.items() if name not in apart} | fused


def distance(ours: Tensor, theirs: Tensor) -> float:
    """‖ours - theirs‖ / ‖theirs‖, in float64; 0 where both vanish."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
