"""The sliced loss against the plain one in float64, value and gradients, and its promise never to hold all logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from olmo_dynamics.training import products
from olmo_dynamics.training.loss import SLICE_ROWS, head_loss


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


def test_in_bfloat16_only_products_are_rounded() -> None:
    """Rounding to 8 bits is half of 2^-8 relative at most; sums over 600 rows stay in float32, so it does not grow."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 64, generator=generator).bfloat16().requires_grad_() for rows in (600, 50))
    labels = torch.randint(50, (600,), generator=generator)
    exact = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    loss, cross_entropy = head_loss(hidden, weight, labels, z_loss=1e-4)
    wanted, wanted_cross_entropy = plain(*exact, labels, 1e-4)
    loss.backward()
    wanted.backward()
    assert loss.dtype == cross_entropy.dtype == torch.float32
    assert cross_entropy.item() == pytest.approx(wanted_cross_entropy.item(), rel=2**-9)
    assert loss.item() == pytest.approx(wanted.item(), rel=2**-9)
    for leaf, twin in zip((hidden, weight), exact, strict=True):
        assert leaf.grad.dtype == torch.bfloat16
        assert (leaf.grad.double() - twin.grad).norm() <= 2**-7 * twin.grad.norm()


def test_a_count_is_the_denominator_and_no_row_gives_nothing() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    labels = torch.tensor([1, 2, 3])
    assert head_loss(hidden, weight, labels, count=6)[0].item() == pytest.approx(
        head_loss(hidden, weight, labels)[0].item() / 2
    )
    loss, _ = head_loss(hidden[:0], weight, labels[:0])
    loss.backward()
    assert loss.item() == 0 and not weight.grad.any() and not hidden.grad.any()


def test_widened_products_never_see_subnormal_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits 90 apart give probabilities below float32's normal numbers, and gradients of 0 there."""
    monkeypatch.setattr(products, "_float32_is_faster", lambda: True)
    hidden = torch.tensor([[1.0, 0.0]]).bfloat16().requires_grad_()
    weight = torch.tensor([[90.0, 1.0], [0.0, 1.0], [90.0, 1.0]]).bfloat16().requires_grad_()
    head_loss(hidden, weight, torch.tensor([0]))[0].backward()
    torch.testing.assert_close(weight.grad.float(), torch.tensor([[-0.5, 0.0], [0.0, 0.0], [0.5, 0.0]]))
    assert hidden.grad.float().tolist() == [[0.0, 0.0]]
