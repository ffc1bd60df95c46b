"""Workers share a batch and change nothing but the last digits; the same number of them changes nothing at all."""

import numpy as np
import pytest
import torch

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.gradients import backward, open_pool
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, new_state
from olmo_dynamics.training.trainer import train


def gradients(state: TrainState, batch: torch.Tensor, count: int) -> tuple[tuple[float, float], list[torch.Tensor]]:
    with open_pool(count) as pool:
        losses = backward(state.model, batch, z_loss=1e-2, pool=pool)
    return losses, [parameter.grad for parameter in state.model.parameters()]


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_shares_sum_to_the_whole_even_where_they_are_unequal(config: ModelConfig, recipe: Recipe, count: int) -> None:
    state = new_state(config, recipe)
    batch = torch.randint(300, (5, 16), generator=torch.Generator().manual_seed(0))
    losses, wanted = gradients(state, batch, 1)
    shared_losses, shared = gradients(state, batch, count)
    assert shared_losses == pytest.approx(losses, rel=1e-6)
    for gradient, other in zip(shared, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_two_workers_repeat_themselves_bit_for_bit(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> None:
    first, second = (train(new_state(config, recipe), recipe, tokens, workers=2) for _ in range(2))
    for tensor, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(tensor, other)


def test_no_worker_is_refused() -> None:
    with pytest.raises(OptionError) as caught, open_pool(0):
        pass
    assert str(caught.value) == "training wants at least 1 worker; got 0"
