"""P6: updates of a 12.6 M OLMo 2 in bf16: ours, ours compiled, and transformers under autocast, taking turns step by step.

The peer is a plain loop around transformers' model (autocast, the model's own loss, torch's clipping, fused AdamW): what
transformers.Trainer runs, without what it does around it. Memory is that of each method alone, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.turns import Turn, report_turn
from olmo_dynamics.model import ModelConfig, to_config_json
from olmo_dynamics.training.data import Windows
from olmo_dynamics.training.gradients import clip_gradients, open_gradients
from olmo_dynamics.training.loss import head_loss
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import update

CONFIG = ModelConfig(
    hidden_size=256, layers=8, heads=2, kv_heads=2, head_dim=128, intermediate_size=1024, vocab_size=8192,
    max_positions=512, norm_eps=1e-6, rope_theta=5e5,
)  # fmt: skip
RECIPE = Recipe(steps=1000, sequences_per_step=8, sequence_length=512, dtype="bfloat16", compile=False, workers=2)
TOKENS = RECIPE.tokens_per_step
THRIFTY = "ours, one sequence at a time, blocks run twice"
OURS = {
    "ours, compiled": {"compile": True},
    "ours": {},
    THRIFTY: {"micro_batch": 1, "activation_checkpointing": True},
}
PEER = "transformers + autocast + fused AdamW"
METHODS = ("ours, compiled", "ours", PEER)
LOSSES = ("loss of 2048 rows, sliced", "loss of 2048 rows, whole")
VOCABULARY = 100_352


def our_steps(**changes: object) -> Iterator[float]:
    """Each `next` makes an update and gives its loss."""
    recipe = Recipe(**{**RECIPE.to_json(), "betas": RECIPE.betas, **changes})
    state, batches = new_state(CONFIG, recipe), windows()
    with open_gradients(state.model, recipe) as gradients:
        while True:
            losses = gradients.of(batches.batch(state.step))
            clip_gradients(state.model.parameters(), recipe.clip)
            state.step += 1
            update(state, recipe, recipe.peak_lr)
            yield losses.cross_entropy


def their_steps() -> Iterator[float]:
    import transformers

    model = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**to_config_json(CONFIG)))
    model.load_state_dict(new_state(CONFIG, RECIPE).model.state_dict())
    decayed = [parameter for name, parameter in model.named_parameters() if "embed" not in name]
    groups = [{"params": decayed}, {"params": [model.model.embed_tokens.weight], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE.peak_lr, betas=RECIPE.betas, weight_decay=0.1, fused=True)
    batches = windows()
    for position in range(RECIPE.steps):
        token_ids = batches.batch(position).token_ids
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=token_ids, labels=token_ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def windows() -> Windows:
    tokens = np.random.default_rng(0).zipf(1.3, 20 * TOKENS) % CONFIG.vocab_size
    return Windows(tokens, RECIPE.sequence_length, RECIPE.sequences_per_step, seed=0)


def steps_of(method: str) -> Iterator[float]:
    return their_steps() if method == PEER else our_steps(**OURS[method])


def loss_of(method: str) -> Callable[[], float]:
    """The head's loss and its gradients, forward and backward, in bf16."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(rows, 256, generator=generator).bfloat16().requires_grad_() for rows in (2048, VOCABULARY)
    )
    labels = torch.randint(VOCABULARY, (2048,), generator=generator)

    def work() -> float:
        if method == LOSSES[0]:
            loss = head_loss(hidden, weight, labels)[0]
        else:
            loss = torch.nn.functional.cross_entropy((hidden @ weight.T).float(), labels)
        loss.backward()
        return loss.item()

    return work


def take_steps(repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds and loss of `repeats` updates of each method, in turn, after one of each that is not counted."""
    runs = {method: steps_of(method) for method in METHODS}
    for steps in runs.values():
        next(steps)
    taken: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for _ in range(repeats):
        for method, steps in runs.items():
            started = time.perf_counter()
            loss = next(steps)
            taken[method].append((time.perf_counter() - started, loss))
    return taken


def measure(repeats: int) -> dict[str, list[Turn]]:
    """Every method's turns; the memory is that of one run of it alone."""
    steps = _in_a_process("steps", str(repeats))
    turns = {}
    for method in (*METHODS, THRIFTY, *LOSSES):
        alone = _in_a_process("alone", method)
        taken = steps.get(method) or [(alone["seconds"], alone["result"])]
        turns[method] = [Turn(seconds, alone["peak_bytes"], loss) for seconds, loss in taken]
    return turns


def _in_a_process(*arguments: str) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.p6_trainer", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    what, value = sys.argv[1:]
    if what == "steps":
        print(json.dumps(take_steps(int(value))))
    elif value in LOSSES:
        report_turn(loss_of(value))
    else:
        report_turn(lambda: [next(steps) for steps in [steps_of(value)] for _ in range(2)][-1])
