"""Models built from a config: empty, on the meta device, or with fresh random weights.

>>> from olmo_dynamics.model import ModelConfig, expected_shapes
>>> config = ModelConfig(hidden_size=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate_size=128,
...                      vocab_size=100, max_positions=32, norm_eps=1e-6, rope_theta=5e5)
>>> expected_shapes(config)["model.layers.1.self_attn.k_proj.weight"]
(32, 64)
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.family import family_of
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.sites import taps
from olmo_dynamics.names import Site

INIT_STD = 0.02
INIT_CUT = 3.0  # in standard deviations


def build_model(
    config: ModelConfig, *, device: torch.device | str = "meta", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Build a model of this shape without weights: no values on the meta device, arbitrary ones on any other.

    Call `load_model_weights` or `init_weights` next.
    """
    with torch.device("meta"):
        model: LanguageModel = family_of(config.model_type).network(config).to(dtype)
    return model if torch.device(device).type == "meta" else model.to_empty(device=device)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor in a checkpoint of this config, in the model's order."""
    return dict(_shapes(config))


@cache
def _shapes(config: ModelConfig) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(tensor.shape)) for name, tensor in build_model(config).state_dict().items())


@cache
def model_sites(config: ModelConfig) -> tuple[Site, ...]:
    """The sites of a model of this config, in the order of `Site`."""
    tapped = {tap.site for tap in taps(build_model(config))}
    return tuple(site for site in Site if site in tapped)


@torch.no_grad()
def init_weights(model: nn.Module, seed: int) -> None:
    """Initialise weights as OLMo 2 does: norms 1, biases 0, all else normal with standard deviation 0.02, truncated at ±0.06.

    Olmo 3 and OLMoE are initialised the same way; the first OLMo 1 models had smaller values in deeper layers. Values are
    drawn in float32 on the CPU in the order of the parameters' names, so a seed gives the same weights on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
            continue
        drawn = torch.empty(parameter.shape)
        nn.init.trunc_normal_(drawn, std=INIT_STD, a=-INIT_CUT * INIT_STD, b=INIT_CUT * INIT_STD, generator=generator)
        parameter.copy_(drawn)
