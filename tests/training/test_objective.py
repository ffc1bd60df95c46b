"""A batch's loss against the plain formula, against transformers' OLMoE, and against each document run alone."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch import Tensor

from olmo_dynamics.model import Experts, LanguageModel, ModelConfig, to_config_json
from olmo_dynamics.training import objective
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.gradients import open_gradients
from olmo_dynamics.training.objective import LossTerms, evaluate
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from tests.training.test_gradients import half_masked_batch

FAMILIES = {
    "olmo": {"clip_qkv": 0.5},
    "olmo2": {},
    "olmo3": {"sliding_window": 5, "sliding_layers": (0,)},
    "olmoe": {"experts": Experts(count=8, per_token=2)},
}


def tiny(config: ModelConfig, family: str) -> LanguageModel:
    """A model of a family whose attention has preferences, so that what it may look at matters."""
    model = new_state(replace(config, model_type=family, **FAMILIES[family]), Recipe(steps=1)).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim == 2 else 1.0)
    return model


def gradients(model: LanguageModel, batch: Batch, recipe: Recipe) -> tuple[LossTerms, dict[str, Tensor]]:
    with open_gradients(model, recipe) as maker:
        losses = maker.of(batch)
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("mean_over", "denominator"), [("labels", 24), ("positions", 27)])
def test_a_model_learns_from_length_minus_one_labels(
    config: ModelConfig, recipe: Recipe, tied: bool, mean_over: str, denominator: int
) -> None:
    model = new_state(replace(config, tied_embeddings=tied), recipe).model
    token_ids = torch.randint(300, (3, 9), generator=torch.Generator().manual_seed(1))
    logits = model(token_ids)[:, :-1].reshape(24, -1)
    wanted = torch.nn.functional.cross_entropy(logits, token_ids[:, 1:].reshape(-1), reduction="sum") / denominator
    wanted_gradients = torch.autograd.grad(wanted, list(model.parameters()))
    recipe = replace(recipe, z_loss=0.0, mean_over=mean_over)
    assert evaluate(model, Batch(token_ids), recipe).cross_entropy == pytest.approx(wanted.item(), rel=1e-6)
    losses, found = gradients(model, Batch(token_ids), recipe)
    assert losses == LossTerms(losses.cross_entropy, losses.cross_entropy, None, None)
    for gradient, other in zip(found.values(), wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-7)


def test_a_batch_is_evaluated_by_micro_batches(
    config: ModelConfig, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, seen = tiny(config, "olmo2"), half_masked_batch(), []
    whole = evaluate(model, batch, recipe)
    inner = objective.objective
    monkeypatch.setattr(
        objective, "objective", lambda compute, part, *rest: seen.append(len(part)) or inner(compute, part, *rest)
    )
    parted = evaluate(model, batch, replace(recipe, micro_batch=2))
    assert seen == [2, 2, 1] and parted.cross_entropy == pytest.approx(whole.cross_entropy, rel=1e-6)


def test_labels_that_do_not_count_are_in_the_denominators_as_the_trainers_have_them(
    config: ModelConfig, recipe: Recipe
) -> None:
    model, batch = tiny(config, "olmo2"), replace(half_masked_batch(), documents=None)
    logits = model(batch.token_ids)[:, :-1]
    labels = batch.token_ids[:, 1:].masked_fill(~batch.loss_mask[:, 1:], -100)
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    norms = (logits.logsumexp(-1).square() * batch.loss_mask[:, 1:]).sum()
    wanted = torch.autograd.grad(total + 1e-2 * norms, list(model.parameters()))
    # OLMo: every position. OLMo-core: what is not -100, and all 16 of the one sequence that its filter leaves out.
    for mean_over, denominator in (("positions", 5 * 16), ("labels", int((labels != -100).sum()) + 16)):
        losses, found = gradients(model, batch, replace(recipe, mean_over=mean_over, z_loss=1e-2))
        assert losses.cross_entropy == pytest.approx(total.item() / denominator, rel=1e-6)
        assert losses.total == pytest.approx((total + 1e-2 * norms).item() / denominator, rel=1e-6)
        for gradient, other in zip(found.values(), wanted, strict=True):
            torch.testing.assert_close(gradient, other / denominator, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_of_one_sequence_are_as_if_each_were_alone(config: ModelConfig, recipe: Recipe, family: str) -> None:
    """RoPE is relative: that positions go on through a sequence changes rounding only."""
    model, lengths = tiny(config, family), (7, 1, 12, 4)
    recipe = replace(recipe, z_loss=1e-2, balance_loss=0.0, router_z_loss=0.0)
    token_ids = torch.randint(300, (1, 24), generator=torch.Generator().manual_seed(3))
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    first = torch.tensor(
        [[place in (0, 7, 8, 20) for place in range(24)]]
    )  # no document alone has a label for its first token
    losses, together = gradients(model, Batch(token_ids, ~first, documents), recipe)
    labels, alone, summed = 20, 0.0, dict.fromkeys(together, 0.0)
    for part in token_ids.split(lengths, dim=1):
        if part.shape[1] > 1:
            found, each = gradients(model, Batch(part), recipe)
            alone += found.cross_entropy * (part.shape[1] - 1) / labels
            summed = {name: summed[name] + each[name] * (part.shape[1] - 1) / labels for name in each}
    assert losses.cross_entropy == pytest.approx(alone, rel=1e-5)
    whole = torch.cat([gradient.flatten() for gradient in together.values()])
    wanted = torch.cat([gradient.flatten() for gradient in summed.values()])
    assert (whole - wanted).norm() <= 1e-5 * wanted.norm()
    assert abs(gradients(model, Batch(token_ids, ~first), recipe)[0].cross_entropy - alone) > 1e-3  # were they not


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_running_blocks_again_changes_no_gradient(config: ModelConfig, recipe: Recipe, family: str, dtype: str) -> None:
    model, recipe = tiny(config, family), replace(recipe, dtype=dtype)
    losses, kept = gradients(model, half_masked_batch(), recipe)
    again, found = gradients(
        model, half_masked_batch(), replace(recipe, activation_checkpointing=True, micro_batch=None)
    )
    assert again == losses
    for name, gradient in found.items():
        assert torch.equal(gradient, kept[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_float32_but_for_its_eight_bits(config: ModelConfig, recipe: Recipe, family: str) -> None:
    """Each rounding is 2^-9 relative at most; a dozen in a row, not all of one sign, stay below 2^-6 of the whole."""
    model = new_state(replace(config, model_type=family, **FAMILIES[family]), recipe).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses, wanted = gradients(model, half_masked_batch(), recipe)
    rounded, found = gradients(model, half_masked_batch(), replace(recipe, dtype="bfloat16"))
    assert rounded.cross_entropy == pytest.approx(losses.cross_entropy, rel=2**-9)
    assert rounded.cross_entropy != losses.cross_entropy
    ours, theirs = (torch.cat([gradient.flatten() for gradient in each.values()]) for each in (found, wanted))
    assert ours.dtype == torch.float32
    assert (ours - theirs).norm() <= 2**-5 * theirs.norm()
    assert torch.cosine_similarity(ours, theirs, dim=0) > 1 - 2**-10
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # masters stay


@pytest.mark.parametrize("layers", [1, 3])
def test_olmoe_has_the_gradients_of_transformers_with_its_balance_loss(
    config: ModelConfig, recipe: Recipe, layers: int
) -> None:
    """transformers adds `coefficient · E · sum f P`, with `f` and `P` pooled over layers: ours times k, where one is all."""
    config = replace(config, model_type="olmoe", layers=layers, **FAMILIES["olmoe"])
    model = tiny(config, "olmoe")
    theirs = transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**to_config_json(config)))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layer in range(layers):  # transformers keeps a layer's experts in two tensors
        experts = [f"model.layers.{layer}.mlp.experts.{expert}" for expert in range(8)]
        gates, ups, downs = (
            torch.stack([state.pop(f"{expert}.{part}_proj.weight") for expert in experts])
            for part in ("gate", "up", "down")
        )
        state[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.cat([gates, ups], dim=1)
        state[f"model.layers.{layer}.mlp.experts.down_proj"] = downs
    theirs.load_state_dict(state)
    token_ids = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(0))
    made = theirs(token_ids, labels=token_ids, output_router_logits=True)
    z = torch.stack([logits.logsumexp(-1).square().mean() for logits in made.router_logits]).mean()
    plain = transformers.models.olmoe.modeling_olmoe.load_balancing_loss_func
    balances = torch.stack([plain((logits,), 8, 2) for logits in made.router_logits]).mean() / 2
    cross_entropy = made.loss - theirs.router_aux_loss_coef * made.aux_loss
    (cross_entropy + 0.5 * balances + 0.25 * z).backward()

    recipe = replace(recipe, z_loss=0.0, balance_loss=0.5, router_z_loss=0.25)
    losses, found = gradients(model, Batch(token_ids), recipe)
    assert losses.cross_entropy == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert (losses.balance, losses.router_z) == pytest.approx((balances.item(), z.item()), rel=1e-5)
    if layers == 1:
        assert losses.balance == pytest.approx(made.aux_loss.item() / 2, rel=1e-6)
    for name, parameter in theirs.named_parameters():
        if "experts" not in name:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)
    down = found["model.layers.0.mlp.experts.5.down_proj.weight"]
    theirs_down = dict(theirs.named_parameters())["model.layers.0.mlp.experts.down_proj"].grad[5]
    torch.testing.assert_close(down, theirs_down, rtol=1e-3, atol=1e-6)


def test_the_routers_losses_survive_micro_batches_workers_and_running_twice(
    config: ModelConfig, recipe: Recipe
) -> None:
    """z is a mean over tokens and so the whole batch's; balance is the mean over micro-batches, as in the trainers."""
    model = tiny(config, "olmoe")
    batch = Batch(torch.randint(300, (6, 16), generator=torch.Generator().manual_seed(0)))
    whole, _ = gradients(model, batch, recipe)
    parts = [gradients(model, part, recipe)[0] for part in batch.split(2)]
    for changes in ({"micro_batch": 2}, {"workers": 3}, {"micro_batch": 2, "activation_checkpointing": True}):
        losses, _ = gradients(model, batch, replace(recipe, **changes))
        assert losses.router_z == pytest.approx(whole.router_z, rel=1e-5)
        assert losses.balance == pytest.approx(sum(part.balance for part in parts) / 3, rel=1e-5)
    assert not any(tap._forward_hooks for tap in model.modules())
