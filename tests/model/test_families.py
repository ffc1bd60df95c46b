"""Each family against transformers, against NumPy in float64, and against what was published of it."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import MethodType
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama
from transformers.models.olmo2 import modeling_olmo2
from transformers.models.olmoe import modeling_olmoe

from olmo_dynamics.checkpoints import FolderSource
from olmo_dynamics.model import (
    MODEL_TYPES,
    LanguageModel,
    ModelConfig,
    build_model,
    check_shapes,
    expected_shapes,
    find_tap,
    init_weights,
    model_sites,
    parse_config,
    taps,
    to_config_json,
    to_tensor,
)
from olmo_dynamics.names import NO_LAYER, Revision, Site
from tests.model.drawing import (
    as_in_transformers,
    configs,
    distance,
    random_model,
    random_tokens,
    same_in_transformers,
    tiny_config,
)
from tests.model.in_numpy import numpy_logits

families = pytest.mark.parametrize("family", MODEL_TYPES)
batches = st.tuples(st.integers(1, 3), st.integers(2, 20))


def cross_entropy(logits: Tensor, token_ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten())


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return as_in_transformers(model.config, found) if isinstance(model, LanguageModel) else found


def whole(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def narrowest_choice(model: LanguageModel, token_ids: Tensor) -> float:
    """By how much the least preferred of a token's chosen experts was preferred to the next, at the closest call."""
    experts, gaps = model.config.experts, [math.inf]
    if experts is None or experts.per_token == experts.count:
        return math.inf
    for (site, _), logits in seen_by_ours(model, token_ids).items():
        if site is Site.ROUTER_LOGITS:
            ordered = logits.sort(dim=-1, descending=True).values
            gaps.append(float((ordered[..., experts.per_token - 1] - ordered[..., experts.per_token]).min()))
    return min(gaps)


def seen_by_ours(model: LanguageModel, token_ids: Tensor) -> dict[tuple[Site, int], Tensor]:
    seen: dict[tuple[Site, int], Tensor] = {}
    handles = [
        tap.register_forward_hook(lambda tap, _, x: seen.__setitem__((tap.site, tap.layer), x)) for tap in taps(model)
    ]
    with torch.no_grad():
        model(token_ids)
    for handle in handles:
        handle.remove()
    return seen


@families
@settings(max_examples=6, deadline=None)
@given(data=st.data(), batch=batches, seed=st.integers(0, 99), attention=st.sampled_from(["sdpa", "eager"]))
def test_logits_and_gradients_equal_transformers(family, data, batch, seed, attention):
    ours = random_model(data.draw(configs(family)), seed=seed)
    theirs = same_in_transformers(ours, attention)
    token_ids = random_tokens(ours.config, *batch, seed=seed)
    assume(narrowest_choice(ours, token_ids) > 1e-4)  # else float32's rounding decides
    our_logits, their_logits = ours(token_ids), theirs(token_ids).logits
    assert (our_logits - their_logits).abs().max() <= 1e-5 * their_logits.abs().max()

    cross_entropy(our_logits, token_ids).backward()
    cross_entropy(their_logits, token_ids).backward()
    our_gradients, their_gradients = gradients(ours), gradients(theirs)
    assert our_gradients.keys() == their_gradients.keys()
    assert distance(whole(our_gradients), whole(their_gradients)) <= 1e-5
    # a gradient that is nearly or wholly zero, because tokens cancel, is known to float32's rounding of the others
    floor = 1e-6 * whole(their_gradients).norm()
    for name, gradient in our_gradients.items():
        assert (gradient - their_gradients[name]).norm() <= 1e-4 * their_gradients[name].norm() + floor, name


@families
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", [{"kv_heads": 4}, {"tied_embeddings": True}])
def test_every_gradient_equals_transformers(family, changes, attention):
    ours = random_model(tiny_config(family, **changes))
    theirs = same_in_transformers(ours, attention)
    token_ids = random_tokens(ours.config, 4, 32)
    cross_entropy(ours(token_ids), token_ids).backward()
    cross_entropy(theirs(token_ids).logits, token_ids).backward()
    their_gradients = gradients(theirs)
    for name, gradient in gradients(ours).items():
        assert distance(gradient, their_gradients[name]) <= 1e-5, name


@families
@settings(max_examples=6, deadline=None)
@given(data=st.data(), batch=st.tuples(st.integers(1, 2), st.integers(2, 9)), seed=st.integers(0, 99))
def test_bfloat16_logits_equal_transformers_to_rounding(family, data, batch, seed):
    ours = random_model(data.draw(configs(family)), seed=seed, dtype=torch.bfloat16)
    token_ids = random_tokens(ours.config, *batch, seed=seed)
    with rounding_as_olmo2(same_in_transformers(ours)) as theirs:
        our_sites, their_sites = seen_by_ours(ours, token_ids), seen_by_theirs(theirs, token_ids)
    assume(choices(our_sites) == choices(their_sites))  # rounding may decide close calls
    our_logits, their_logits = our_sites[Site.LOGITS, NO_LAYER], their_sites[Site.LOGITS, NO_LAYER]
    assert our_logits.dtype == their_logits.dtype == torch.bfloat16
    assert distance(our_logits, their_logits) <= 2**-8


@contextmanager
def rounding_as_olmo2(theirs: transformers.PreTrainedModel) -> Iterator[transformers.PreTrainedModel]:
    """transformers' OLMoE and Llama multiply by norm weights, these and GPT-NeoX turn queries and keys, and GPT-NeoX computes
    GELU's approximation, after rounding to bfloat16, which is less exact than what it does for OLMo 2, and we for all; here
    they do as OLMo 2.
    """
    written = {
        "olmoe": modeling_olmoe,
        "llama": modeling_llama,
        "gpt_neox": modeling_gpt_neox,
        "olmo_ladder": modeling_llama,
    }.get(theirs.config.model_type)
    if written is None:
        yield theirs
        return
    theirs.base_model.rotary_emb.forward = MethodType(
        modeling_olmo2.Olmo2RotaryEmbedding.forward, theirs.base_model.rotary_emb
    )
    for norm in theirs.modules():
        if isinstance(norm, modeling_olmoe.OlmoeRMSNorm | modeling_llama.LlamaRMSNorm):
            norm.forward = MethodType(modeling_olmo2.Olmo2RMSNorm.forward, norm)
    for mlp in theirs.modules():
        if isinstance(mlp, modeling_gpt_neox.GPTNeoXMLP) and theirs.config.hidden_act != "gelu":
            mlp.act = torch.nn.GELU(approximate="tanh")  # theirs rounds after every operation
    with patch.object(written, "apply_rotary_pos_emb", rotated_as_olmo2):
        yield theirs


def rotated_as_olmo2(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    width = cos.shape[-1]  # the rest of a head is not rotated
    turned = modeling_olmo2.apply_rotary_pos_emb(q[..., :width], k[..., :width], cos, sin)
    return tuple(torch.cat((t, x[..., width:]), dim=-1) for t, x in zip(turned, (q, k), strict=True))


def test_bfloat16_olmoe_is_not_far_from_transformers_own_rounding():
    ours = random_model(tiny_config("olmoe"), dtype=torch.bfloat16)
    token_ids = random_tokens(ours.config, 2, 9)
    with torch.no_grad():
        our_logits, their_logits = ours(token_ids), same_in_transformers(ours)(token_ids).logits
        exact = ours.double()(token_ids)
    assert distance(our_logits, their_logits) <= 2**-5
    assert distance(our_logits, exact) <= distance(their_logits, exact)


def choices(seen: dict[tuple[Site, int], Tensor]) -> list[list[Any]]:
    """Each layer's chosen experts, in ascending order."""
    return [x.sort(dim=-1).values.tolist() for (site, _), x in seen.items() if site is Site.CHOSEN_EXPERTS]


@families
def test_autocast_logits_equal_transformers(family):
    ours = random_model(tiny_config(family))
    token_ids = random_tokens(ours.config, 1, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        our_logits, their_logits = ours(token_ids), same_in_transformers(ours)(token_ids).logits
    assert distance(our_logits, their_logits) <= 2**-7


@families
@settings(max_examples=8, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99))
def test_float64_logits_equal_numpy(family, data, seed):
    model = random_model(data.draw(configs(family)), seed=seed, dtype=torch.float64)
    token_ids = random_tokens(model.config, 1, 9, seed=seed)
    with torch.no_grad():
        ours = model(token_ids)[0]
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    wanted = torch.from_numpy(numpy_logits(model.config, weights, token_ids[0].numpy()))
    assert torch.allclose(ours, wanted, rtol=1e-10, atol=1e-10)


def seen_by_theirs(model: torch.nn.Module, token_ids: Tensor) -> dict[tuple[Site, int], Tensor]:
    seen: dict[tuple[Site, int], Tensor] = {}

    def keep(module: torch.nn.Module, site: Site, layer: int = NO_LAYER, *, entering: bool = False, part: int = 0):
        def hook(module, inputs, output):
            value = inputs[0] if entering else output
            value = value[part] if isinstance(value, tuple) else value
            seen[site, layer] = value.reshape(*token_ids.shape, -1)  # routers see tokens in one row

        module.register_forward_hook(hook)

    neox = model.config.model_type == "gpt_neox"
    keep(model.get_input_embeddings(), Site.EMBEDDING)
    keep(model.base_model.final_layer_norm if neox else model.model.norm, Site.FINAL_NORM)
    keep(model.lm_head, Site.LOGITS)
    for layer, block in enumerate(model.base_model.layers):
        keep(block, Site.RESIDUAL_IN, layer, entering=True)
        attention = block.attention if neox else block.self_attn
        keep(attention, Site.ATTENTION_OUTPUT, layer)
        keep(block.mlp, Site.MLP_OUTPUT, layer)
        keep(block, Site.RESIDUAL_OUT, layer)
        if hasattr(attention, "q_norm"):
            keep(attention.q_norm, Site.QUERY, layer)
            keep(attention.k_norm, Site.KEY, layer)
        if hasattr(block, "input_layernorm"):
            keep(block.input_layernorm, Site.ATTENTION_INPUT, layer)
            if not getattr(block, "use_parallel_residual", False):
                keep(block.post_attention_layernorm, Site.RESIDUAL_MIDDLE, layer, entering=True)
            keep(block.post_attention_layernorm, Site.MLP_INPUT, layer)
        else:
            keep(block.post_attention_layernorm, Site.ATTENTION_OUTPUT_NORMED, layer)
            keep(block.mlp, Site.RESIDUAL_MIDDLE, layer, entering=True)
            keep(block.post_feedforward_layernorm, Site.MLP_OUTPUT_NORMED, layer)
        if hasattr(block.mlp, "gate"):
            keep(block.mlp.gate, Site.ROUTER_LOGITS, layer)
            keep(block.mlp.gate, Site.CHOSEN_EXPERTS, layer, part=2)
        else:
            keep(block.mlp.dense_4h_to_h if neox else block.mlp.down_proj, Site.MLP_HIDDEN, layer, entering=True)
    with torch.no_grad(), showing_queries(model, seen):
        model(token_ids)
    return seen


@contextmanager
def showing_queries(model: torch.nn.Module, seen: dict) -> Iterator[None]:
    """Keep the queries that transformers gives its attention function, after RoPE."""

    def attend(module, query, *others, **options):
        seen[Site.QUERY_ROTATED, module.layer_idx] = query.transpose(1, 2).flatten(2)
        return sdpa_attention_forward(module, query, *others, **options)

    AttentionInterface.register("showing", attend)
    AttentionMaskInterface.register("showing", sdpa_mask)
    model.set_attn_implementation("showing")
    yield
    model.set_attn_implementation("sdpa")


@families
def test_every_site_holds_what_transformers_has_there(family):
    model = random_model(tiny_config(family))
    token_ids = random_tokens(model.config, 2, 11)
    ours, theirs = seen_by_ours(model, token_ids), seen_by_theirs(same_in_transformers(model), token_ids)
    sites = model_sites(model.config)
    assert sorted(ours) == sorted((site, n) for site in sites for n in (range(3) if site.in_block else [NO_LAYER]))
    unhooked = (
        {Site.QUERY, Site.KEY} if family in ("olmo", "llama", "gpt_neox", "olmo_ladder") else set()
    )  # no module there
    assert {site for site, _ in theirs} == set(sites) - unhooked
    for place in theirs:
        assert ours[place].shape == theirs[place].shape
        assert distance(ours[place], theirs[place]) <= 1e-5, place


def test_families_differ_in_their_sites():
    dense = set(Site) - {Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS}
    read, written = {Site.ATTENTION_INPUT, Site.MLP_INPUT}, {Site.ATTENTION_OUTPUT_NORMED, Site.MLP_OUTPUT_NORMED}
    for family in ("olmo", "llama", "olmo_ladder"):
        assert set(model_sites(tiny_config(family))) == dense - written
    assert set(model_sites(tiny_config("olmo2"))) == set(model_sites(tiny_config("olmo3"))) == dense - read
    parallel, one_by_one = (tiny_config("gpt_neox", parallel_residual=flag) for flag in (True, False))
    assert set(model_sites(one_by_one)) == dense - written
    assert set(model_sites(parallel)) == dense - written - {Site.RESIDUAL_MIDDLE}
    assert set(model_sites(tiny_config("olmoe"))) == set(Site) - written - {Site.MLP_HIDDEN}


@families
def test_hidden_states_are_the_residual_stream(family):
    model = random_model(tiny_config(family))
    token_ids = random_tokens(model.config, 2, 11)
    ours = seen_by_ours(model, token_ids)
    with torch.no_grad():
        theirs = same_in_transformers(model)(token_ids, output_hidden_states=True).hidden_states
    stream = [ours[Site.EMBEDDING, NO_LAYER], ours[Site.RESIDUAL_OUT, 0], ours[Site.RESIDUAL_OUT, 1]]
    for our_state, their_state in zip([*stream, ours[Site.FINAL_NORM, NO_LAYER]], theirs, strict=True):
        assert distance(our_state, their_state) <= 1e-5


@families
def test_an_edit_at_a_tap_reaches_the_logits(family):
    model = random_model(tiny_config(family))
    token_ids = random_tokens(model.config, 1, 6)
    with torch.no_grad():
        before = model(token_ids)
        tap = find_tap(model, Site.ATTENTION_OUTPUT, 1)
        handle = tap.register_forward_hook(lambda tap, inputs, x: torch.zeros_like(x))
        after = model(token_ids)
        handle.remove()
        assert distance(after, before) > 0.1
        assert torch.equal(model(token_ids), before)


@families
def test_logits_do_not_depend_on_later_tokens(family):
    model = random_model(tiny_config(family), dtype=torch.float64)
    token_ids = random_tokens(model.config, 2, 12)
    changed = token_ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % model.config.vocab_size
    with torch.no_grad():
        before, after = model(token_ids), model(changed)
    assert distance(after[:, :7], before[:, :7]) <= 1e-12
    assert distance(after[:, 7:], before[:, 7:]) > 0.1


@families
def test_the_padding_row_is_trained_also_where_transformers_leaves_it_alone(family):
    left_alone = family != "gpt_neox"  # transformers' GPT-NeoX gives its embedding no padding_idx
    ours = random_model(tiny_config(family, pad_token_id=1))
    theirs = same_in_transformers(ours)
    token_ids = torch.tensor([[1, 5, 1, 7, 8]])
    cross_entropy(ours(token_ids), token_ids).backward()
    cross_entropy(theirs(token_ids).logits, token_ids).backward()
    our_gradient, their_gradient = ours.model.embed_tokens.weight.grad, theirs.get_input_embeddings().weight.grad
    assert (their_gradient[1].norm() == 0) == left_alone
    assert our_gradient[1].norm() > 0
    compared = [row for row in range(len(our_gradient)) if row != 1 or not left_alone]
    assert distance(our_gradient[compared], their_gradient[compared]) <= 1e-5


def written_configs(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The `config.json` of each kind of revision of a published model."""
    kinds = facts["max_position_embeddings"]
    config = facts | {"hidden_act": "silu", "rms_norm_eps": facts["norm_eps"], "layer_types": None}
    config["model_type"] = "olmo" if facts["model_type"].startswith("hf_olmo") else facts["model_type"]
    if isinstance(kinds, int):
        return [config]
    return [
        config | {"max_position_embeddings": kinds[kind], "rope_scaling": facts["rope_scaling"][kind]} for kind in kinds
    ]


@cache
def parameter_count(config: ModelConfig) -> int:
    return sum(math.prod(shape) for shape in expected_shapes(config).values())


def test_published_models_have_exactly_their_parameters(shared):
    models = json.loads((shared / "reference" / "olmo_models.json").read_text())["models"]
    checked = {name: facts for name, facts in models.items() if facts["model_type"] not in ("flex_olmo", "olmo_hybrid")}
    for name, facts in checked.items():
        for written in written_configs(facts):
            config = parse_config(written)
            assert parameter_count(replace(config, yarn=None, max_positions=1)) == facts["total_params"], name
        if "native_padded_vocab" in facts:
            padded = replace(config, vocab_size=facts["native_padded_vocab"], yarn=None, max_positions=1)
            assert parameter_count(padded) == facts["native_total_params"], name
    assert len(checked) >= 27
    assert {facts["model_type"] for facts in checked.values()} >= {"olmo", "olmo2", "olmo3", "olmoe"}


@families
def test_names_and_shapes_are_those_that_transformers_writes(family, tmp_path):
    from safetensors.torch import load_file

    config = tiny_config(family)
    theirs = same_in_transformers(random_model(config))
    theirs.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    with FolderSource(tmp_path.parent).open(Revision(tmp_path.name)) as checkpoint:
        infos = checkpoint.tensors
        stored = {name: to_tensor(checkpoint.read(info), info) for name, info in infos.items()}
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == expected_shapes(config)
    check_shapes(config, infos)
    assert set(written) == set(checkpoint.published_names.values() or infos)
    read = parse_config(json.loads((tmp_path / "config.json").read_text()))
    assert to_config_json(read) == to_config_json(config)
    token_ids, again = random_tokens(config, 2, 7), build_model(read, device="cpu")
    again.load_state_dict(stored)
    with torch.no_grad():
        assert distance(again(token_ids), theirs(token_ids).logits) <= 1e-5


@families
def test_the_meta_device_holds_no_numbers(family):
    model = build_model(tiny_config(family), dtype=torch.bfloat16)
    assert {(tensor.device.type, tensor.dtype) for tensor in model.parameters()} == {("meta", torch.bfloat16)}


@families
def test_init_weights_are_cut_normals_that_a_seed_fixes(family):
    config = tiny_config(family, hidden_size=96, head_dim=24, vocab_size=512)
    models = [
        build_model(config, device="cpu", dtype=dtype) for dtype in (torch.float32, torch.float32, torch.bfloat16)
    ]
    for model in models:
        init_weights(model, seed=7)
    first, again, rounded = (model.state_dict() for model in models)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor.bfloat16(), rounded[name])
        if tensor.ndim == 1:
            assert torch.equal(tensor, torch.full_like(tensor, 0.0 if name.endswith(".bias") else 1.0))
    embedding = first["model.embed_tokens.weight"].double()
    assert embedding.abs().max() <= 0.06
    # a normal cut off at 3 standard deviations keeps sqrt(0.97334) of its spread
    assert float(embedding.std()) == pytest.approx(0.02 * math.sqrt(0.97334), rel=0.02)
    assert not torch.equal(first["model.embed_tokens.weight"], first["lm_head.weight"])
