"""The sliced loss against the plain one in float64, value and gradients, and its promise never to hold all logits."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.loss import SLICE_ROWS, head_loss, next_token_loss
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels)
    return cross_entropy + z_loss * logits.logsumexp(-1).square().mean(), cross_entropy


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([1, 5, SLICE_ROWS, 2 * SLICE_ROWS + 3]),
    st.sampled_from([0.0, 1e-5, 0.1]),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.integers(0, 10),
)
def test_head_loss_and_its_gradients_are_those_of_the_plain_formula(
    rows: int, z_loss: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(rows, 6, generator=generator)).requires_grad_()
    weight = torch.randn(50, 6, generator=generator).requires_grad_()
    labels = torch.randint(50, (rows,), generator=generator)
    exact = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]

    loss, cross_entropy = head_loss(hidden, weight, labels, z_loss=z_loss)
    wanted, wanted_cross_entropy = plain(*exact, labels, z_loss)
    (3 * loss).backward()
    (3 * wanted).backward()

    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cross_entropy.double(), wanted_cross_entropy, rtol=1e-5, atol=1e-6)
    assert not cross_entropy.requires_grad
    for leaf, twin in zip((hidden, weight), exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), twin.grad, rtol=1e-4, atol=1e-5 * twin.grad.abs().max().item())


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_learns_from_length_minus_one_labels(config: ModelConfig, recipe: Recipe, tied: bool) -> None:
    model = new_state(replace(config, tied_embeddings=tied), recipe).model
    token_ids = torch.randint(300, (3, 9), generator=torch.Generator().manual_seed(1))
    logits = model(token_ids)[:, :-1].reshape(24, -1)
    wanted = torch.nn.functional.cross_entropy(logits, token_ids[:, 1:].reshape(-1))
    wanted_gradients = torch.autograd.grad(wanted, list(model.parameters()))

    loss, cross_entropy = next_token_loss(model, token_ids, z_loss=0.0)
    torch.testing.assert_close(cross_entropy, wanted.detach())
    for gradient, other in zip(torch.autograd.grad(loss, list(model.parameters())), wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-7)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_logits_are_never_whole() -> None:
    rows, vocabulary = 4 * SLICE_ROWS, 500
    hidden = torch.randn(rows, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, requires_grad=True)
    with LargestTensor() as largest:
        head_loss(hidden, weight, torch.zeros(rows, dtype=torch.int64))[0].backward()
    assert largest.elements == SLICE_ROWS * vocabulary
