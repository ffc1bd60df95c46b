"""Products in float32 of a model in bfloat16: the exact value rounded once, and only where they are faster."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from olmo_dynamics.model import ModelConfig, build_model, init_weights
from olmo_dynamics.training import products
from olmo_dynamics.training.execution import working_copy
from olmo_dynamics.training.products import attend_in_float32, linear_in_float32, prefers_float32
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import train


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0])).bfloat16()


def agree(ours: Callable[..., Tensor], exact: Callable[..., Tensor], leaves: list[Tensor]) -> None:
    """Values and gradients are those in float64, to a rounding of the result and one of the slope."""
    found, wanted = (
        [leaf.requires_grad_() for leaf in leaves],
        [leaf.double().detach().requires_grad_() for leaf in leaves],
    )
    value, true = ours(*found), exact(*wanted)
    slope = drawn(*value.shape)
    value.backward(slope)
    true.backward(slope.double())
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(value.double(), true, rtol=2**-8, atol=2**-8)
    for leaf, twin in zip(found, wanted, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16
        assert (leaf.grad.double() - twin.grad).norm() <= 2**-7 * twin.grad.norm()


def test_a_linear_layer_is_rounded_once() -> None:
    agree(linear_in_float32, torch.nn.functional.linear, [drawn(3, 5, 40), drawn(7, 40), drawn(7)])


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_rounded_once(masked: bool) -> None:
    mask = torch.ones(9, 9, dtype=torch.bool).tril().triu(-3) if masked else None

    def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (each.repeat_interleave(2, dim=1) for each in (k, v))
        seen = torch.ones(9, 9, dtype=torch.bool).tril() if mask is None else mask
        scores = (q @ k.mT / 16**0.5).masked_fill(~seen, -torch.inf)
        return scores.softmax(-1) @ v

    agree(
        lambda q, k, v: attend_in_float32(q, k, v, mask),
        exact,
        [drawn(2, 4, 9, 16), drawn(2, 2, 9, 16), drawn(2, 2, 9, 16) + 1],
    )


def test_only_bfloat16_on_a_processor_that_is_faster_at_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for faster in (False, True):
        monkeypatch.setattr(products, "_float32_is_faster", lambda faster=faster: faster)
        assert [prefers_float32(torch.ones(1, dtype=dtype)) for dtype in (torch.bfloat16, torch.float32)] == [
            faster,
            False,
        ]
        assert not prefers_float32(torch.ones(1, dtype=torch.bfloat16, device="meta"))


def test_training_with_either_product_agrees(
    config: ModelConfig, recipe: Recipe, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[bool, list[float]] = {}
    config = replace(config, model_type="llama", attention_bias=True, mlp_bias=True)
    recipe = replace(recipe, steps=4, save_at=(), dtype="bfloat16")
    for faster in (False, True):
        monkeypatch.setattr(products, "_float32_is_faster", lambda faster=faster: faster)
        taken = losses[faster] = []
        train(
            new_state(config, recipe), recipe, tokens, callbacks=[lambda event, taken=taken: taken.append(event.loss)]
        )
    assert losses[True] == pytest.approx(losses[False], rel=1e-3) and losses[True] != losses[False]


def test_a_working_copy_keeps_the_names_of_its_parameters(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_float32_is_faster", lambda: True)
    model = build_model(config, device="cpu")
    init_weights(model, seed=0)
    copy = working_copy(model, torch.bfloat16)
    assert [name for name, _ in copy.named_parameters()] == [name for name, _ in model.named_parameters()]
