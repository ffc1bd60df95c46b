"""OLMoE: the router, its choice, and experts that see their own tokens only."""

import json

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.model import Experts, build_model, expected_shapes, find_tap, load_model_weights, parse_config
from olmo_dynamics.names import NO_EXPERT, Site, TensorInfo
from tests.model.drawing import configs, distance, random_model, random_tokens, same_in_transformers, tiny_config
from tests.model.test_families import cross_entropy, narrowest_choice, seen_by_ours

LEAST = {
    "model_type": "olmoe",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "vocab_size": 100,
    "num_experts": 16,
}


@settings(max_examples=10, deadline=None)
@given(config=configs("olmoe"), seed=st.integers(0, 99))
def test_router_logits_and_chosen_experts_equal_transformers(config, seed):
    model = random_model(config, seed=seed)
    token_ids = random_tokens(config, 2, 9, seed=seed)
    assume(narrowest_choice(model, token_ids) > 1e-4)
    seen = seen_by_ours(model, token_ids)
    with torch.no_grad():
        theirs = same_in_transformers(model)(token_ids, output_router_logits=True).router_logits
    for layer in range(config.layers):
        logits = theirs[layer].view(2, 9, config.experts.count)
        assert distance(seen[Site.ROUTER_LOGITS, layer], logits) <= 1e-5
        chosen = seen[Site.CHOSEN_EXPERTS, layer]
        assert chosen.dtype == torch.int64
        assert torch.equal(chosen, logits.softmax(dim=-1).topk(config.experts.per_token, dim=-1).indices)


def test_no_token_is_dropped_however_many_choose_one_expert():
    model = random_model(tiny_config("olmoe"))
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight.zero_()  # all probabilities are equal
    token_ids = random_tokens(model.config, 3, 20)
    seen = seen_by_ours(model, token_ids)
    assert seen[Site.CHOSEN_EXPERTS, 1].flatten(0, 1).unique(dim=0).shape == (1, 2)
    assert (seen[Site.MLP_OUTPUT, 1].norm(dim=-1) > 0).all()


def test_experts_see_the_tokens_that_chose_them_and_no_others():
    model = random_model(tiny_config("olmoe"))
    seen, rows = {}, {}
    experts = model.model.layers[0].mlp.experts
    for number, expert in enumerate(experts):
        expert.register_forward_hook(lambda _, inputs, output, number=number: rows.__setitem__(number, inputs[0]))
    token_ids = random_tokens(model.config, 2, 9)
    seen = seen_by_ours(model, token_ids)
    read, chosen = seen[Site.MLP_INPUT, 0].flatten(0, 1), seen[Site.CHOSEN_EXPERTS, 0].flatten(0, 1)
    for number in range(len(experts)):
        assert torch.equal(rows[number], read[(chosen == number).any(dim=-1)])


@pytest.mark.parametrize("renormalized", [False, True])
def test_probabilities_are_of_all_experts_unless_they_are_renormalized(renormalized):
    model = random_model(tiny_config("olmoe", experts=Experts(count=4, per_token=2, renormalized=renormalized)))
    block = model.model.layers[0].mlp
    with torch.no_grad():
        for expert in block.experts:  # all experts are one
            expert.load_state_dict(block.experts[0].state_dict())
    seen = seen_by_ours(model, random_tokens(model.config, 2, 9))
    with torch.no_grad():
        alone = block.experts[0](seen[Site.MLP_INPUT, 0])
        share = 1.0 if renormalized else seen[Site.ROUTER_LOGITS, 0].softmax(-1).topk(2).values.sum(-1, keepdim=True)
        assert distance(seen[Site.MLP_OUTPUT, 0], share * alone) <= 1e-6


def test_an_expert_that_nobody_chose_has_a_gradient_of_zeros():
    model = random_model(tiny_config("olmoe", experts=Experts(count=5, per_token=1)))
    tap = find_tap(model, Site.CHOSEN_EXPERTS, 0)
    tap.register_forward_hook(lambda tap, inputs, chosen: torch.full_like(chosen, 3))  # an edit sends all to one
    token_ids = random_tokens(model.config, 2, 9)
    cross_entropy(model(token_ids), token_ids).backward()
    norms = [float(expert.up_proj.weight.grad.norm()) for expert in model.model.layers[0].mlp.experts]
    assert [norm > 0 for norm in norms] == [False, False, False, True, False]


def test_an_edit_of_the_router_logits_takes_an_expert_out():
    model = random_model(tiny_config("olmoe"))

    def without_expert_2(tap, inputs, logits):
        return logits.index_fill(-1, torch.tensor([2]), -torch.inf)

    find_tap(model, Site.ROUTER_LOGITS, 1).register_forward_hook(without_expert_2)
    seen = seen_by_ours(model, random_tokens(model.config, 2, 20))
    assert (seen[Site.CHOSEN_EXPERTS, 0] == 2).any()
    assert not (seen[Site.CHOSEN_EXPERTS, 1] == 2).any()


def test_tensors_are_named_and_placed_as_on_disk():
    infos = {
        name: TensorInfo(name, "F32", shape, "model.safetensors", 0, 0)
        for name, shape in expected_shapes(tiny_config("olmoe")).items()
    }
    router, down = infos["model.layers.1.mlp.gate.weight"], infos["model.layers.1.mlp.experts.4.down_proj.weight"]
    assert (router.role, router.layer, router.shape, router.residual_axis) == ("gate", 1, (5, 48), 1)
    assert (down.role, down.layer, down.shape, down.residual_axis) == ("down_proj", 1, (48, 64), 0)
    assert infos["model.layers.1.mlp.experts.4.up_proj.weight"].residual_axis == 1
    assert (router.expert, down.expert) == (NO_EXPERT, 4)
    assert infos["model.layers.1.post_attention_layernorm.weight"].residual_axis == 0


def test_weights_load_with_their_own_memory():
    stored = random_model(tiny_config("olmoe")).state_dict()
    model = build_model(tiny_config("olmoe"))
    load_model_weights(model, stored)
    expert = model.model.layers[2].mlp.experts[4]
    assert torch.equal(expert.gate_proj.weight, stored["model.layers.2.mlp.experts.4.gate_proj.weight"])


def test_absent_keys_default_as_in_transformers():
    import transformers

    config, theirs = parse_config(LEAST), transformers.OlmoeConfig(**LEAST)
    assert config.experts == Experts(count=16, per_token=theirs.num_experts_per_tok, renormalized=theirs.norm_topk_prob)
    assert (config.max_positions, config.norm_eps) == (theirs.max_position_embeddings, theirs.rms_norm_eps)
    assert parse_config(json.loads(theirs.to_json_string())) == config


def test_the_number_of_experts_may_be_called_local():
    other = {("num_local_experts" if key == "num_experts" else key): value for key, value in LEAST.items()}
    assert parse_config(other) == parse_config(LEAST)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_experts": None},
            "config.json must give hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size, "
            "num_experts (missing: num_experts); add them",
        ),
        ({"num_experts": 0}, "num_experts must be a whole number of at least 1 (got 0); correct the config"),
        (
            {"num_experts_per_tok": 17},
            "num_experts_per_tok must be at most num_experts (got 17 and 16); correct the config",
        ),
        (
            {"num_shared_experts": 1},
            "num_shared_experts must be 0 for the forward pass implemented here (got 1); record parameters only",
        ),
    ],
)
def test_configs_that_mean_nothing_or_another_model_are_refused(changes, message):
    with pytest.raises(CheckpointError) as caught:
        parse_config(LEAST | changes)
    assert str(caught.value) == message
