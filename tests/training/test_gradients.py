"""Workers and micro-batches change nothing but the last digits; the same number of them changes nothing at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.gradients import clip_gradients, open_gradients, open_pool
from olmo_dynamics.training.objective import LossTerms
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, new_state
from olmo_dynamics.training.trainer import train


def gradients(state: TrainState, batch: Batch, recipe: Recipe) -> tuple[LossTerms, list[torch.Tensor]]:
    with open_gradients(state.model, recipe) as maker:
        losses = maker.of(batch)
    return losses, [parameter.grad for parameter in state.model.parameters()]


def half_masked_batch() -> Batch:
    """Five sequences: one of which all labels count, one of which none does, the rest drawn; in documents of 5 or so."""
    generator = torch.Generator().manual_seed(0)
    loss_mask = torch.rand(5, 16, generator=generator) < 0.5
    loss_mask[0], loss_mask[3] = True, False
    documents = (torch.rand(5, 16, generator=generator) < 0.2).cumsum(1)
    return Batch(torch.randint(300, (5, 16), generator=generator), loss_mask, documents)


@pytest.mark.parametrize("mean_over", ["labels", "positions"])
@pytest.mark.parametrize(("workers", "micro_batch"), [(2, None), (9, None), (1, 1), (1, 2), (1, 4), (2, 2), (3, 1)])
def test_shares_sum_to_the_whole_even_where_they_are_unequal(
    config: ModelConfig, recipe: Recipe, workers: int, micro_batch: int | None, mean_over: str
) -> None:
    recipe = replace(recipe, mean_over=mean_over, z_loss=1e-2)
    state, batch = new_state(config, recipe), half_masked_batch()
    losses, wanted = gradients(state, batch, recipe)
    shared_losses, shared = gradients(state, batch, replace(recipe, workers=workers, micro_batch=micro_batch))
    assert shared_losses.total == pytest.approx(losses.total, rel=1e-6)
    assert shared_losses.cross_entropy == pytest.approx(losses.cross_entropy, rel=1e-6)
    for gradient, other in zip(shared, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_two_workers_repeat_themselves_bit_for_bit(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> None:
    first, second = (train(new_state(config, recipe), recipe, tokens, workers=2) for _ in range(2))
    for tensor, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(tensor, other)


def test_no_worker_is_refused() -> None:
    with pytest.raises(OptionError) as caught, open_pool(0):
        pass
    assert str(caught.value) == "workers must be at least 1 (got 0)"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_is_torchs_own_on_small_tensors(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [scale * torch.randn(shape, generator=generator) for shape in ((7, 5), (5,), (3, 2))]
    ours, theirs = ([torch.zeros_like(gradient, requires_grad=True) for gradient in gradients] for _ in range(2))
    for group in (ours, theirs):
        for parameter, gradient in zip(group, gradients, strict=True):
            parameter.grad = gradient.clone()
    unused = torch.zeros(3, requires_grad=True)
    assert clip_gradients([*ours, unused], 1.0) == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 1.0).item())
    for parameter, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad)


def test_the_norm_of_a_long_gradient_does_not_drift() -> None:
    parameter = torch.zeros(1 << 24, requires_grad=True)
    parameter.grad = torch.full_like(parameter, 1e-3)
    assert clip_gradients([parameter], 100.0) == pytest.approx(np.float32(1e-3) * 4096, rel=1e-9)
