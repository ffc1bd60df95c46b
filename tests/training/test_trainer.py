"""The loop against one written out in NumPy float64 with transformers' gradients, and what stops it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from olmo_dynamics.errors import DivergedError, TrainingError
from olmo_dynamics.model import ModelConfig, to_config_json
from olmo_dynamics.training.checkpoint import write_checkpoint
from olmo_dynamics.training.checkpoint_reader import read_checkpoint
from olmo_dynamics.training.data.windows import Windows
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import EMBEDDING, TrainState, move_state, new_state
from olmo_dynamics.training.trainer import Event, train


def copies(state: TrainState) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in state.model.state_dict().items()}


def train_by_hand(
    weights: dict[str, np.ndarray], config: ModelConfig, recipe: Recipe, tokens: np.ndarray
) -> tuple[dict[str, np.ndarray], list[tuple[float, float]]]:
    """AdamW, clipping and schedule in NumPy float64; only the gradients come from transformers' model."""
    model = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**to_config_json(config))).double()
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    windows = Windows(tokens, recipe.sequence_length, recipe.sequences_per_step, recipe.seed)
    history = []
    for step, rate in enumerate((5e-3, 1e-2, 1e-3), start=1):  # half way up, the peak, the end
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        model.zero_grad()
        batch = windows.batch(step - 1).token_ids
        logits = model(batch).logits[:, :-1].flatten(0, 1)
        cross_entropy = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten())
        (cross_entropy + recipe.z_loss * logits.logsumexp(-1).square().mean()).backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        history.append((cross_entropy.item(), norm))
        for name, gradient in gradients.items():
            clipped = gradient * min(1.0, recipe.clip / (norm + 1e-6))
            first[name] = recipe.betas[0] * first[name] + (1 - recipe.betas[0]) * clipped
            second[name] = recipe.betas[1] * second[name] + (1 - recipe.betas[1]) * clipped**2
            if name != "model.embed_tokens.weight":
                weights[name] = weights[name] * (1 - rate * recipe.weight_decay)
            direction = first[name] / (1 - recipe.betas[0] ** step)
            weights[name] = weights[name] - rate * direction / (
                np.sqrt(second[name] / (1 - recipe.betas[1] ** step)) + recipe.eps
            )
    return weights, history


@pytest.mark.parametrize("clip", [0.2, 100.0])
def test_three_steps_are_those_of_a_loop_written_by_hand(config: ModelConfig, tokens: np.ndarray, clip: float) -> None:
    recipe = Recipe(
        steps=3,
        sequences_per_step=4,
        sequence_length=16,
        peak_lr=1e-2,
        warmup_steps=2,
        eps=1e-4,  # makes the update a smooth function of tiny gradients, so that float32 can be compared
        clip=clip,
        z_loss=1e-2,
    )
    state = new_state(config, recipe)
    events: list[Event] = []
    wanted, history = train_by_hand(copies(state), config, recipe, tokens)
    train(state, recipe, tokens, callbacks=[events.append])
    assert [event.loss for event in events] == pytest.approx([loss for loss, _ in history], rel=1e-5)
    assert [event.gradient_norm for event in events] == pytest.approx([norm for _, norm in history], rel=1e-4)
    for name, value in copies(state).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_events_tell_of_every_update(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> None:
    state = new_state(config, recipe)
    events: list[Event] = []
    assert train(state, recipe, tokens, callbacks=[events.append]) is state
    assert [event.step for event in events] == list(range(1, 11))
    assert [event.tokens_seen for event in events] == list(range(64, 641, 64))
    assert [event.learning_rate for event in events] == [recipe.learning_rate(step) for step in range(1, 11)]
    assert all(event.state is state for event in events)
    assert events[0].loss == pytest.approx(np.log(config.vocab_size), abs=0.05)
    assert (state.step, state.tokens_seen, state.position) == (10, 640, 10)


def test_a_pattern_is_learnt(config: ModelConfig, recipe: Recipe) -> None:
    events: list[Event] = []
    recipe = replace(recipe, steps=40)
    train(new_state(config, recipe), recipe, np.arange(2000) % 16, callbacks=[events.append])
    assert events[-1].loss < 1.5 < events[0].loss


def test_a_finished_state_is_returned_as_it_is(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> None:
    state = train(new_state(config, recipe), recipe, tokens)
    before = copies(state)
    events: list[Event] = []
    train(state, recipe, tokens, callbacks=[events.append])
    assert events == []
    np.testing.assert_equal(copies(state), before)


def test_embedding_rows_that_no_token_reaches_keep_their_first_bits(
    config: ModelConfig, recipe: Recipe, tokens: np.ndarray
) -> None:
    state = new_state(config, recipe)
    before = copies(state)
    after = copies(train(state, recipe, tokens))
    unseen = np.setdiff1d(np.arange(config.vocab_size), tokens)
    assert set(range(304, 320)) <= set(unseen)
    np.testing.assert_array_equal(after[EMBEDDING][unseen].view(np.uint32), before[EMBEDDING][unseen].view(np.uint32))
    assert (after["lm_head.weight"][unseen] != before["lm_head.weight"][unseen]).all()
    for name, value in after.items():
        assert (value != before[name]).any(), name


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(
    config: ModelConfig, recipe: Recipe, tokens: np.ndarray, broken: float
) -> None:
    state = new_state(config, recipe)

    def break_it(event: Event) -> None:
        if event.step == 4:
            event.state.model.model.norm.weight.data[0] = broken
            before.update(copies(event.state))

    before: dict[str, np.ndarray] = {}
    with pytest.raises(DivergedError) as caught:
        train(state, recipe, tokens, callbacks=[break_it])
    assert str(caught.value) == (
        "step 5: loss and gradient must be finite (got loss nan and gradient norm nan): "
        "resume from the last checkpoint with a lower peak_lr or a longer warm-up"
    )
    np.testing.assert_equal(copies(state), before)
    assert (state.step, state.tokens_seen, state.position) == (4, 256, 4)


def test_data_shorter_than_a_batch_is_refused(config: ModelConfig, recipe: Recipe) -> None:
    with pytest.raises(
        TrainingError, match=r"^one batch is 4 windows of 16, 64 tokens \(got 63\): give more data or a smaller batch$"
    ):
        train(new_state(config, recipe), recipe, np.zeros(63, np.uint16))


def test_tokens_of_another_tokenizer_are_refused(config: ModelConfig, recipe: Recipe) -> None:
    with pytest.raises(TrainingError) as caught:
        train(new_state(config, recipe), recipe, np.full(64, 320, np.uint16))
    assert str(caught.value) == (
        "step 1: token ids must be below 320, the model's vocabulary (got 320): tokenize with this model's tokenizer"
    )


def test_a_step_that_stays_zero_keeps_the_first_bias_corrections(
    config: ModelConfig, recipe: Recipe, tokens: np.ndarray
) -> None:
    recipe = replace(recipe, steps=3, warmup_steps=0, step_stays_zero=True)
    state = train(new_state(config, recipe), replace(recipe, steps=2), tokens)
    before, rate = copies(state), recipe.learning_rate(3)
    train(state, recipe, tokens)
    for name, parameter in state.model.named_parameters():
        kept = state.optimizer.state[parameter]
        assert kept["step"] == 0
        first, second = (kept[kind].double().numpy() for kind in ("exp_avg", "exp_avg_sq"))
        decay = 0 if name == EMBEDDING else recipe.weight_decay
        wanted = before[name] * (1 - rate * decay) - rate * (first / 0.1) / (np.sqrt(second / 0.05) + recipe.eps)
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ten_steps_are_five_and_five_in_either_dtype(
    config: ModelConfig, recipe: Recipe, tokens: np.ndarray, dtype: str, tmp_path: Path
) -> None:
    recipe = replace(recipe, dtype=dtype, micro_batch=3)
    whole = train(new_state(config, recipe), recipe, tokens)
    half = new_state(config, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(half, recipe, tokens, callbacks=[stop_at_five])
    folder = write_checkpoint(tmp_path, half, recipe=recipe, tokenizer_json=None, lineage={})
    resumed, saved = read_checkpoint(folder)
    assert saved == recipe
    train(resumed, saved, tokens)
    np.testing.assert_equal(copies(resumed), copies(whole))
    assert all(parameter.dtype == torch.float32 for parameter in whole.model.parameters())


def stop_at_five(event: Event) -> None:
    if event.step == 5:
        raise KeyboardInterrupt


def test_moving_a_state_to_where_it_is_changes_nothing(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> None:
    moved = move_state(train(new_state(config, recipe), replace(recipe, steps=5), tokens), "cpu")
    wanted = train(new_state(config, recipe), replace(recipe, steps=5), tokens)
    np.testing.assert_equal(copies(train(moved, recipe, tokens)), copies(train(wanted, recipe, tokens)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_trains_as_a_cpu_does(config: ModelConfig, recipe: Recipe, tokens: np.ndarray, dtype: str) -> None:
    recipe, losses = replace(recipe, dtype=dtype), dict[str, list[float]]()
    for device in ("cpu", "cuda"):
        events: list[Event] = []
        train(move_state(new_state(config, recipe), device), recipe, tokens, callbacks=[events.append])
        losses[device] = [event.loss for event in events]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-4 if dtype == "float32" else 2**-7)
