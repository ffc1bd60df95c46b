"""Weights edited at a fork: the very elements that were named change, and AdamW forgets those that became zero."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.model import ModelConfig, build_model, expected_shapes
from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.fork.weight_edits import apply_edits, check_edits, describe_edits, parse_edit
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import TrainState, new_state
from olmo_dynamics.training.trainer import train

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture
def state(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> TrainState:
    """A model that has been trained a little, so that its moments are not zero."""
    return train(new_state(config, recipe), recipe, tokens)


def weights(state: TrainState) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def test_scaled_and_zeroed_rows_and_tensors(state: TrainState) -> None:
    before = weights(state)
    moments = {name: state.optimizer.state[each]["exp_avg"].clone() for name, each in state.model.named_parameters()}
    options = ForkOptions(
        scale=(f"{DOWN}[3,5]=0.5", "*.q_norm.weight=2"), zero=("model.layers.1.mlp.up_proj.weight[0]",)
    )
    counts = apply_edits(state, options)
    after, wanted = weights(state), {name: tensor.clone() for name, tensor in before.items()}
    wanted[DOWN][[3, 5]] *= 0.5
    for layer in (0, 1):
        wanted[f"model.layers.{layer}.self_attn.q_norm.weight"] *= 2
    up = "model.layers.1.mlp.up_proj.weight"
    wanted[up][0] = 0
    assert all(torch.equal(after[name], wanted[name]) for name in before)
    assert counts[DOWN] == {"changed": 2 * 32, "zeroed": 0} and counts[up] == {"changed": 24, "zeroed": 24}
    assert len(counts) == 4
    for name, parameter in state.model.named_parameters():
        kept = moments[name].clone()
        if name == up:
            kept[0] = 0
        assert torch.equal(state.optimizer.state[parameter]["exp_avg"], kept), name


def test_a_zeroed_feature_is_silent_in_the_whole_residual_stream(state: TrainState, config: ModelConfig) -> None:
    counts = apply_edits(state, ForkOptions(zero_feature=(7,)))
    model = state.model
    assert (model.model.embed_tokens.weight[:, 7] == 0).all() and (model.lm_head.weight[:, 7] == 0).all()
    for layer in model.model.layers:
        assert (layer.self_attn.o_proj.weight[7] == 0).all() and (layer.mlp.down_proj.weight[7] == 0).all()
        assert (layer.self_attn.q_proj.weight[:, 7] == 0).all() and (layer.mlp.gate_proj.weight[:, 7] == 0).all()
    streams: list[Tensor] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _, __, output: streams.append(output))
    model(torch.arange(32)[None])
    assert len(streams) == 2 and all((stream[..., 7] == 0).all() and stream.abs().max() > 0 for stream in streams)
    untouched = {name for name in expected_shapes(config) if name not in counts}
    assert untouched == {name for name in expected_shapes(config) if "q_norm" in name or "k_norm" in name}


def test_a_function_edits_each_tensor(state: TrainState) -> None:
    before = weights(state)

    def halve_norms(name: str, tensor: Tensor) -> Tensor:
        return tensor / 2 if "norm" in name else tensor

    counts = apply_edits(state, ForkOptions(edit=halve_norms))
    after = weights(state)
    assert all(torch.equal(after[name], before[name] / (2 if "norm" in name else 1)) for name in before)
    assert set(counts) == {name for name in before if "norm" in name}
    [line] = describe_edits(ForkOptions(edit=halve_norms))
    assert line.startswith("function tests.training.fork.test_weight_edits.") and line.endswith("halve_norms")
    for wrong, came in ((lambda _, t: t[:1], r"shape \[1, 24\]"), (lambda _, t: t / 0, "numbers that are not finite")):
        with pytest.raises(
            TrainingError, match=f"^edit must return finite numbers of model.embed_tokens.* \\(got {came}\\)$"
        ):
            apply_edits(state, ForkOptions(edit=wrong))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"zero": ("nothing*",)},
            "an edit must name a parameter; 'nothing*' matches none of 25, such as model.embed_tokens.weight, "
            "model.layers.0.self_attn.q_proj.weight, model.layers.0.self_attn.k_proj.weight",
        ),
        ({"scale": (f"{DOWN}[24]=2",)}, f"rows of {DOWN} must be within 0..23 (got 24)"),
        ({"zero_feature": (24,)}, "zero_feature must be within 0..23 (got 24)"),
        (
            {"scale": (DOWN,)},
            f"scale must be GLOB=FACTOR or GLOB[ROW]=FACTOR, such as '*.down_proj.weight=0.5' (got {DOWN!r})",
        ),
        (
            {"scale": (f"{DOWN}=nan",)},
            f"scale must be GLOB=FACTOR or GLOB[ROW]=FACTOR, such as '*.down_proj.weight=0.5' (got {DOWN + '=nan'!r})",
        ),
    ],
)
def test_edits_of_nothing_are_refused(changes: dict[str, Any], message: str, config: ModelConfig) -> None:
    shapes = {name: tuple(each.shape) for name, each in build_model(config).named_parameters()}
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        check_edits(ForkOptions(**changes), shapes, config.hidden_size)


def test_brackets_within_a_glob_are_no_rows() -> None:
    assert parse_edit("model.layers.[01].*=0.5").rows == () and parse_edit("a[1]=0").rows == (1,)
