"""OLMo 2 against transformers, against NumPy in float64, and against what is known of it."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from olmo_dynamics.model import Olmo2, build_model, expected_shapes, find_tap, init_weights, parse_config, taps
from olmo_dynamics.names import NO_LAYER, Site
from tests.model.drawing import configs, distance, random_model, random_tokens, same_in_transformers, tiny_config

batches = st.tuples(st.integers(1, 3), st.integers(2, 20))


def cross_entropy(logits: Tensor, token_ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten())


@settings(max_examples=20, deadline=None)
@given(config=configs(), batch=batches, seed=st.integers(0, 99), attention=st.sampled_from(["sdpa", "eager"]))
def test_logits_and_gradients_equal_transformers(config, batch, seed, attention):
    ours = random_model(config, seed=seed)
    theirs = same_in_transformers(ours, attention)
    token_ids = random_tokens(config, *batch, seed=seed)
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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("changes", [{}, {"kv_heads": 4}, {"tied_embeddings": True}])
def test_every_gradient_equals_transformers(changes, attention):
    ours = random_model(tiny_config(**changes))
    theirs = same_in_transformers(ours, attention)
    token_ids = random_tokens(ours.config, 4, 32)
    cross_entropy(ours(token_ids), token_ids).backward()
    cross_entropy(theirs(token_ids).logits, token_ids).backward()
    their_gradients = gradients(theirs)
    for name, gradient in gradients(ours).items():
        assert distance(gradient, their_gradients[name]) <= 1e-5, name


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def whole(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@settings(max_examples=10, deadline=None)
@given(config=configs(), batch=batches, seed=st.integers(0, 99))
def test_bfloat16_logits_equal_transformers_to_rounding(config, batch, seed):
    ours = random_model(config, seed=seed, dtype=torch.bfloat16)
    token_ids = random_tokens(config, *batch, seed=seed)
    with torch.no_grad():
        our_logits, their_logits = ours(token_ids), same_in_transformers(ours)(token_ids).logits
        exact = ours.double()(token_ids)
    assert our_logits.dtype == torch.bfloat16
    assert distance(our_logits, their_logits) <= 2**-8
    assert distance(our_logits, exact) <= 1.1 * distance(their_logits, exact) + 2**-9


def test_autocast_logits_equal_transformers():
    ours = random_model(tiny_config())
    token_ids = random_tokens(ours.config, 2, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        our_logits, their_logits = ours(token_ids), same_in_transformers(ours)(token_ids).logits
    assert distance(our_logits, their_logits) <= 2**-8


def test_the_padding_row_is_trained_where_transformers_leaves_it_alone():
    ours = random_model(tiny_config(pad_token_id=1))
    theirs = same_in_transformers(ours)
    token_ids = torch.tensor([[1, 5, 1, 7, 8]])
    cross_entropy(ours(token_ids), token_ids).backward()
    cross_entropy(theirs(token_ids).logits, token_ids).backward()
    our_gradient, their_gradient = ours.model.embed_tokens.weight.grad, theirs.model.embed_tokens.weight.grad
    assert their_gradient[1].norm() == 0
    assert our_gradient[1].norm() > 0
    assert distance(our_gradient[2:], their_gradient[2:]) <= 1e-5


@settings(max_examples=10, deadline=None)
@given(config=configs(), seed=st.integers(0, 99))
def test_float64_logits_equal_numpy(config, seed):
    model = random_model(config, seed=seed, dtype=torch.float64)
    token_ids = random_tokens(config, 1, 9, seed=seed)
    with torch.no_grad():
        ours = model(token_ids)[0]
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert np.allclose(ours, numpy_logits(config, weights, token_ids[0].numpy()), rtol=1e-10, atol=1e-10)


def numpy_logits(config, weights, token_ids):
    """The same model of one sequence, by matrices: RoPE as complex multiplication, attention head by head."""
    positions, half = len(token_ids), config.head_dim // 2
    turn = np.exp(1j * np.outer(np.arange(positions), config.rope_theta ** (-np.arange(half) / half)))

    def norm(x, name):
        return weights[name] * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps)

    def turned(x):
        z = (x[:, :half] + 1j * x[:, half:]) * turn
        return np.concatenate([z.real, z.imag], axis=1)

    x = weights["model.embed_tokens.weight"][token_ids]
    for layer in range(config.layers):
        at = f"model.layers.{layer}."
        q = norm(x @ weights[at + "self_attn.q_proj.weight"].T, at + "self_attn.q_norm.weight")
        k = norm(x @ weights[at + "self_attn.k_proj.weight"].T, at + "self_attn.k_norm.weight")
        v = x @ weights[at + "self_attn.v_proj.weight"].T
        heads = []
        for head in range(config.heads):
            group = head * config.kv_heads // config.heads
            own, shared = (slice(i * config.head_dim, (i + 1) * config.head_dim) for i in (head, group))
            scores = turned(q[:, own]) @ turned(k[:, shared]).T / math.sqrt(config.head_dim)
            scores[np.triu_indices(positions, 1)] = -np.inf
            weight = np.exp(scores - scores.max(axis=1, keepdims=True))
            heads.append(weight / weight.sum(axis=1, keepdims=True) @ v[:, shared])
        attended = np.concatenate(heads, axis=1) @ weights[at + "self_attn.o_proj.weight"].T
        x = x + norm(attended, at + "post_attention_layernorm.weight")
        gate, up = (x @ weights[at + f"mlp.{role}_proj.weight"].T for role in ("gate", "up"))
        fed = gate / (1 + np.exp(-gate)) * up @ weights[at + "mlp.down_proj.weight"].T
        x = x + norm(fed, at + "post_feedforward_layernorm.weight")
    head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
    return norm(x, "model.norm.weight") @ weights[head].T


def seen_by_ours(model: Olmo2, token_ids: Tensor) -> dict[tuple[Site, int], Tensor]:
    seen: dict[tuple[Site, int], Tensor] = {}
    for tap in taps(model):
        tap.register_forward_hook(lambda tap, _, x: seen.__setitem__((tap.site, tap.layer), x))
    with torch.no_grad():
        model(token_ids)
    return seen


def seen_by_theirs(model, token_ids: Tensor) -> dict[tuple[Site, int], Tensor]:
    seen: dict[tuple[Site, int], Tensor] = {}

    def keep(module, site, layer=NO_LAYER, entering=False):
        def hook(module, inputs, output):
            value = (inputs[0] if inputs else None) if entering else output
            seen[site, layer] = value[0] if isinstance(value, tuple) else value

        module.register_forward_hook(hook)

    keep(model.model.embed_tokens, Site.EMBEDDING)
    keep(model.model.norm, Site.FINAL_NORM)
    keep(model.lm_head, Site.LOGITS)
    for layer, block in enumerate(model.model.layers):
        keep(block, Site.RESIDUAL_IN, layer, entering=True)
        keep(block.self_attn.q_norm, Site.QUERY, layer)
        keep(block.self_attn.k_norm, Site.KEY, layer)
        keep(block.self_attn, Site.ATTENTION_OUTPUT, layer)
        keep(block.post_attention_layernorm, Site.ATTENTION_OUTPUT_NORMED, layer)
        keep(block.mlp, Site.RESIDUAL_MIDDLE, layer, entering=True)
        keep(block.mlp.down_proj, Site.MLP_HIDDEN, layer, entering=True)
        keep(block.mlp, Site.MLP_OUTPUT, layer)
        keep(block.post_feedforward_layernorm, Site.MLP_OUTPUT_NORMED, layer)
        keep(block, Site.RESIDUAL_OUT, layer)
    with torch.no_grad():
        model(token_ids)
    return seen


def test_every_site_holds_what_transformers_has_there():
    model = random_model(tiny_config())
    token_ids = random_tokens(model.config, 2, 11)
    ours, theirs = seen_by_ours(model, token_ids), seen_by_theirs(same_in_transformers(model), token_ids)
    places = [(site, layer) for site in Site for layer in (range(3) if site.in_block else [NO_LAYER])]
    assert sorted(ours) == sorted(theirs) == sorted(places)
    for place in places:
        assert ours[place].shape == theirs[place].shape
        assert distance(ours[place], theirs[place]) <= 1e-5, place


def test_hidden_states_are_the_residual_stream():
    model = random_model(tiny_config())
    token_ids = random_tokens(model.config, 2, 11)
    ours = seen_by_ours(model, token_ids)
    with torch.no_grad():
        theirs = same_in_transformers(model)(token_ids, output_hidden_states=True).hidden_states
    stream = [ours[Site.EMBEDDING, NO_LAYER], ours[Site.RESIDUAL_OUT, 0], ours[Site.RESIDUAL_OUT, 1]]
    for our_state, their_state in zip([*stream, ours[Site.FINAL_NORM, NO_LAYER]], theirs, strict=True):
        assert distance(our_state, their_state) <= 1e-5


def test_an_edit_at_a_tap_reaches_the_logits():
    model = random_model(tiny_config())
    token_ids = random_tokens(model.config, 1, 6)
    with torch.no_grad():
        before = model(token_ids)
        tap = find_tap(model, Site.RESIDUAL_MIDDLE, 1)
        handle = tap.register_forward_hook(lambda tap, inputs, x: torch.zeros_like(x))
        after = model(token_ids)
        handle.remove()
        assert distance(after, before) > 0.1
        assert torch.equal(model(token_ids), before)


def test_logits_do_not_depend_on_later_tokens():
    model = random_model(tiny_config())
    token_ids = random_tokens(model.config, 2, 12)
    changed = token_ids.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % model.config.vocab_size
    with torch.no_grad():
        before, after = model(token_ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


def test_the_stream_grows_as_the_root_of_twice_the_depth_at_the_beginning():
    config = tiny_config(
        hidden_size=256, layers=8, heads=4, kv_heads=4, head_dim=64, intermediate_size=512, norm_eps=1e-12
    )
    model = build_model(config, device="cpu")
    init_weights(model, seed=1)
    seen = seen_by_ours(model, random_tokens(config, 2, 32))
    for layer in range(config.layers):
        rms = float(seen[Site.RESIDUAL_OUT, layer].square().mean().sqrt())
        assert rms == pytest.approx(math.sqrt(2 * (layer + 1)), rel=0.05)


def test_published_models_have_exactly_their_parameters(shared):
    models = json.loads((shared / "reference" / "olmo_models.json").read_text())["models"]
    published = {name: facts for name, facts in models.items() if facts["model_type"] == "olmo2"}
    assert len(published) >= 4
    for name, facts in published.items():
        config = parse_config(facts | {"rms_norm_eps": facts["norm_eps"], "hidden_act": "silu"})
        assert sum(math.prod(shape) for shape in expected_shapes(config).values()) == facts["total_params"], name


def test_the_meta_device_holds_no_numbers():
    model = build_model(tiny_config(), dtype=torch.bfloat16)
    assert {(tensor.device.type, tensor.dtype) for tensor in model.parameters()} == {("meta", torch.bfloat16)}


def test_init_weights_are_cut_normals_that_a_seed_fixes():
    config = tiny_config(hidden_size=256, vocab_size=512)
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
            assert torch.equal(tensor, torch.ones_like(tensor))
    embedding = first["model.embed_tokens.weight"].double()
    assert embedding.abs().max() <= 0.06
    # a normal cut off at 3 standard deviations keeps sqrt(0.97334) of its spread
    assert float(embedding.std()) == pytest.approx(0.02 * math.sqrt(0.97334), rel=0.01)
    assert not torch.equal(first["model.embed_tokens.weight"], first["lm_head.weight"])
