"""Updates of a 12.6 M OLMo 2 in bf16: this package, with and without compiled blocks, and two others, interleaved by step.

The others are transformers' Trainer (bf16, fused AdamW, no logging), and a plain loop around its model (autocast, the
model's own loss, torch's clipping, fused AdamW). Memory is measured for each method alone, in a process of its own.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from benchmarks.interleave import Timing, median_cpu, median_seconds, report_timing
from olmo_dynamics.model import ModelConfig, to_config_json
from olmo_dynamics.training.data.windows import Windows
from olmo_dynamics.training.gradients import clip_gradients, open_gradients
from olmo_dynamics.training.loss import head_loss
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import update

CONFIG = ModelConfig(
    hidden_size=256, layers=8, heads=2, kv_heads=2, head_dim=128, intermediate_size=1024, vocab_size=8192,
    max_positions=512, norm_eps=1e-6, rope_theta=5e5,
)  # fmt: skip
TARGETS = {"16x128": 1.6, "8x512": 1.4}
"""Updates per second by batch, as multiples of the Trainer's."""

BATCHES = tuple(TARGETS)
THIS_PACKAGE = {"olmo_dynamics, compiled": {"compile": True}, "olmo_dynamics": {}}
THRIFTY = "olmo_dynamics, 1 sequence, recompute"
TRAINER = "transformers.Trainer, bf16, fused AdamW"
LOOP = "transformers + autocast + fused AdamW"
METHODS = (*THIS_PACKAGE, TRAINER, LOOP)
LOSSES = ("loss of 2048 rows, sliced", "loss of 2048 rows, whole")
VOCABULARY = 100_352


def recipe(batch: str, **changes: object) -> Recipe:
    sequences, length = map(int, batch.split("x"))
    shared = {"steps": 1000, "dtype": "bfloat16", "compile": False, "workers": 2, **changes}
    return Recipe(sequences_per_step=sequences, sequence_length=length, **shared)


def package_steps(given: Recipe) -> Iterator[float]:
    """Make an update at each `next` and yield its loss."""
    state, batches = new_state(CONFIG, given), windows(given)
    with open_gradients(state.model, given) as gradients:
        while True:
            losses = gradients.of(batches.batch(state.step))
            clip_gradients(state.model.parameters(), given.clip)
            state.step += 1
            update(state, given, given.peak_lr)
            yield losses.cross_entropy


def transformers_model(given: Recipe) -> Any:
    import transformers

    model = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**to_config_json(CONFIG)))
    model.load_state_dict(new_state(CONFIG, given).model.state_dict())
    return model


def trainer_steps(given: Recipe) -> Iterator[float]:
    """Yield the losses of Trainer, which runs in a thread of its own and waits before each update until it is requested."""
    import transformers

    turn, losses = threading.Semaphore(0), queue.Queue[float]()

    class Pauses(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turn.acquire()

    class KeepsLoss(transformers.Trainer):  # type: ignore[misc]
        def training_step(self, *arguments: Any, **words: Any) -> torch.Tensor:
            self.last_loss = super().training_step(*arguments, **words)
            return self.last_loss

    class Ends(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            losses.put(float(trainer.last_loss))

    batches = windows(given)
    rows = [{"input_ids": row, "labels": row} for at in range(20) for row in batches.batch(at).token_ids]
    arguments = transformers.TrainingArguments(
        output_dir="unused", use_cpu=True, bf16=True, optim="adamw_torch_fused", max_steps=given.steps,
        per_device_train_batch_size=given.sequences_per_step, learning_rate=given.peak_lr, weight_decay=0.1,
        max_grad_norm=given.clip, lr_scheduler_type="constant", logging_strategy="no", save_strategy="no",
        report_to=[], disable_tqdm=True, adam_beta2=given.betas[1], dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = KeepsLoss(transformers_model(given), arguments, train_dataset=rows, callbacks=[Pauses(), Ends()])
    threads = torch.get_num_threads()  # a new thread would inherit the single thread that the workers above were set to

    def run() -> None:
        torch.set_num_threads(threads)
        trainer.train()

    threading.Thread(target=run, daemon=True).start()
    while True:
        turn.release()
        yield losses.get()


def loop_steps(given: Recipe) -> Iterator[float]:
    model = transformers_model(given)
    decayed = [parameter for name, parameter in model.named_parameters() if "embed" not in name]
    groups = [{"params": decayed}, {"params": [model.model.embed_tokens.weight], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=given.peak_lr, betas=given.betas, weight_decay=0.1, fused=True)
    batches = windows(given)
    for position in range(given.steps):
        token_ids = batches.batch(position).token_ids
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=token_ids, labels=token_ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.clip)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def windows(given: Recipe) -> Windows:
    tokens = np.random.default_rng(0).zipf(1.3, 20 * given.tokens_per_step) % CONFIG.vocab_size
    return Windows(tokens, given.sequence_length, given.sequences_per_step, seed=0)


def steps_of(method: str, batch: str) -> Iterator[float]:
    if method in (TRAINER, LOOP):
        return {TRAINER: trainer_steps, LOOP: loop_steps}[method](recipe(batch))
    if method == THRIFTY:
        return package_steps(recipe(batch, micro_batch=1, activation_checkpointing=True))
    return package_steps(recipe(batch, **THIS_PACKAGE[method]))


def loss_of(method: str) -> Callable[[], float]:
    """The forward and backward pass of the head's loss, in bf16."""
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


def take_steps(batch: str, repeats: int) -> dict[str, list[tuple[float, float, float]]]:
    """Seconds, CPU seconds and loss of `repeats` updates of each method, interleaved, after one uncounted update of each."""
    runs = {method: steps_of(method, batch) for method in METHODS}
    for steps in runs.values():
        next(steps)
    taken: dict[str, list[tuple[float, float, float]]] = {method: [] for method in METHODS}
    for _ in range(repeats):
        for method, steps in runs.items():
            started, cpu = time.perf_counter(), time.process_time()
            loss = next(steps)
            taken[method].append((time.perf_counter() - started, time.process_time() - cpu, loss))
    return taken


def measure(repeats: int) -> dict[str, dict[str, list[Timing]]]:
    """Timings by benchmark and method; memory is that of one run of a method alone."""
    found = {}
    for batch in BATCHES:
        taken = _in_a_process("steps", batch, str(repeats))
        found[f"updates of {batch} tokens"] = {
            method: [
                Timing(seconds, _alone(method, batch).peak_bytes, loss, cpu_seconds=cpu)
                for seconds, cpu, loss in taken[method]
            ]
            for method in METHODS
        } | {THRIFTY: [_alone(THRIFTY, batch)]}
    found[f"loss, vocabulary of {VOCABULARY:,}"] = {method: [_alone(method, "")] for method in LOSSES}
    return found


def against_trainer(taken: dict[str, list[Timing]]) -> str:
    """This package's tokens per second over those of the two others, and the same by CPU time."""
    said = (
        f"{method}: {median_seconds(taken[other]) / median_seconds(taken[method]):.2f} x {other} "
        f"({median_cpu(taken[other]) / median_cpu(taken[method]):.2f} x by CPU time)"
        for method in THIS_PACKAGE
        for other in (TRAINER, LOOP)
    )
    return "\n".join(said)


@cache
def _alone(method: str, batch: str) -> Timing:
    return Timing(**_in_a_process("alone", method, batch))


def _in_a_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.trainer", *arguments]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def two_steps(method: str, batch: str) -> float:
    steps = steps_of(method, batch)
    return [next(steps) for _ in range(2)][-1]


if __name__ == "__main__":
    what, first, second = sys.argv[1:]
    if what == "steps":
        print(json.dumps(take_steps(first, int(second))))
    else:
        report_timing(loss_of(first) if first in LOSSES else lambda: two_steps(first, second))
