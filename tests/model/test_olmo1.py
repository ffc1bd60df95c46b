"""OLMo 1: norms without weights, clipping, tied heads."""

import pytest
import torch
import transformers

from olmo_dynamics.model import Olmo1, build_model, expected_shapes, find_tap, parse_config, to_config_json
from olmo_dynamics.model.families.olmo1 import LayerNorm
from olmo_dynamics.names import Site
from tests.model.drawing import distance, random_model, random_tokens, same_in_transformers, tiny_config


def test_a_checkpoint_holds_no_norm():
    assert [name for name in expected_shapes(tiny_config("olmo")) if "norm" in name] == []
    assert isinstance(build_model(tiny_config("olmo")), Olmo1)


def test_normalised_vectors_have_mean_0_and_variance_1():
    x = 5 + 3 * torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normed = LayerNorm(eps=1e-12)(x)
    assert torch.allclose(normed.mean(dim=-1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(normed.var(dim=-1, correction=0), torch.ones(2, 3, dtype=torch.float64))


def test_bfloat16_vectors_are_normalised_in_float32():
    x = (1000 + torch.arange(64.0)).bfloat16()[None, None]
    assert torch.equal(LayerNorm(eps=1e-5)(x), LayerNorm(eps=1e-5)(x.float()).bfloat16())


def test_queries_keys_and_values_are_cut_off():
    model = random_model(tiny_config("olmo", clip_qkv=0.5))
    seen = {}
    for site in (Site.QUERY, Site.KEY):
        find_tap(model, site, 0).register_forward_hook(lambda tap, _, x: seen.__setitem__(tap.site, x))
    token_ids = random_tokens(model.config, 2, 9)
    with torch.no_grad():
        clipped = model(token_ids)
        assert {float(x.abs().max()) for x in seen.values()} == {0.5}
        free = build_model(tiny_config("olmo", clip_qkv=None), device="cpu")
        free.load_state_dict(model.state_dict())
        assert distance(free(token_ids), clipped) > 0.01


@pytest.mark.parametrize("clip_qkv", [None, 0.5])
@pytest.mark.parametrize("tied", [False, True])
def test_every_release_equals_transformers(clip_qkv, tied):
    model = random_model(tiny_config("olmo", clip_qkv=clip_qkv, tied_embeddings=tied))
    assert ("lm_head.weight" in model.state_dict()) is not tied
    token_ids = random_tokens(model.config, 2, 9)
    with torch.no_grad():
        assert distance(model(token_ids), same_in_transformers(model)(token_ids).logits) <= 1e-5


def test_a_trainers_own_epsilon_is_honoured_though_transformers_has_one_for_all():
    written = to_config_json(tiny_config("olmo")) | {"layer_norm_eps": 0.5}
    config = parse_config(written)
    assert config.norm_eps == 0.5
    assert to_config_json(config)["layer_norm_eps"] == 0.5
    model = random_model(config)
    token_ids = random_tokens(config, 1, 5)
    with torch.no_grad():
        assert distance(model(token_ids), same_in_transformers(model)(token_ids).logits) > 0.01
    del written["layer_norm_eps"]
    assert parse_config(written | {"rms_norm_eps": 0.5}).norm_eps == 1e-5  # a key that OLMo 1 does not have
    assert transformers.OlmoConfig(**written).to_dict().get("layer_norm_eps") is None
