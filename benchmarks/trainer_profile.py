"""The CPU time of an update, operation by operation: `python -m benchmarks profile trainer`.

The updates are those of `benchmarks.trainer`, by one worker on one thread: this package's, with compiled blocks, and those of
the plain loop around transformers' model. torch's profiler times its operations and the kernels that Inductor generated;
ranges name this package's functions around them. An operation's share of the profiled time is that of the CPU time of updates
without the profiler, so that neither it nor a neighbour of the machine adds to them.
"""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import process_time
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import trainer
from benchmarks.interleave import load_of
from benchmarks.operations import Place, cpu_seconds, print_operations
from benchmarks.trainer import CONFIG, recipe
from olmo_dynamics.model import LanguageModel
from olmo_dynamics.training import compile, gradients, loss
from olmo_dynamics.training.data.windows import Windows
from olmo_dynamics.training.execution import Execution
from olmo_dynamics.training.products import prefers_float32

UPDATES = 3
UPDATE = "one update"

PRODUCTS, ATTENTION, KERNELS = "matrix products", "attention", "generated kernels: norms, RoPE, SiLU, sums"
CALLS, SOFTMAX, HEAD_SUMS = (
    "calls of compiled blocks",
    "head: softmax and its gradient",
    "head: sums of the weight's gradient",
)
ROUND, ADD, CLIP, ADAMW = "weights rounded to bf16", "gradients to float32", "norm of the gradient, clipping", "AdamW"
EMBEDDING, BATCH, CASTS = "embedding", "batch", "casts and copies"

RANGES: dict[str, list[Place]] = {
    SOFTMAX: [(loss, "_differentiate")],
    HEAD_SUMS: [(loss, "_add_product")],
    ROUND: [(Execution, "refresh")],
    ADD: [(gradients, "add_up")],
    CLIP: [(trainer, "clip_gradients"), (torch.nn.utils, "clip_grad_norm_")],
    EMBEDDING: [(LanguageModel, "embed")],
    BATCH: [(Windows, "batch")],
}
PARTS = {
    "flash_attention": ATTENTION,
    "cpp_fused": KERNELS,
    "aten::mm": PRODUCTS,
    "aten::addmm": PRODUCTS,
    "aten::bmm": PRODUCTS,
    "embedding": EMBEDDING,
    "softmax": SOFTMAX,
    "nll_loss": SOFTMAX,
    "Optimizer.step": ADAMW,
    "Compiled": CALLS,
}
"""Parts of the names of the profiler's events."""


def report() -> None:
    """Print the operations of both methods' updates, batch by batch, beside their floors."""
    torch.set_num_threads(1)
    for batch in trainer.BATCHES:
        for title, (steps, dtype) in methods(batch).items():
            taken, whole = operations_of(steps)
            print_operations(f"{title}, {batch}, per update", taken, floors(batch, dtype), whole)
    print(load_of({}))


def methods(batch: str) -> dict[str, tuple[Iterator[float], torch.dtype]]:
    """Updates of this package and of the loop, by one thread, and the dtype in which each multiplies."""
    chosen = torch.float32 if prefers_float32(torch.empty(0, dtype=torch.bfloat16)) else torch.bfloat16
    kernels = torch._inductor.config.patch({"cpp.enable_kernel_profile": True})
    with kernels, patch.dict(compile.OPTIONS, clear=True):  # called from Python, kernels and products are seen
        steps = trainer.package_steps(recipe(batch, workers=1, compile=True))
        next(steps)  # compiles
    loop = trainer.loop_steps(recipe(batch))
    return {"olmo_dynamics, compiled": (steps, chosen), trainer.LOOP: (loop, torch.bfloat16)}


def operations_of(steps: Iterator[float]) -> tuple[dict[str, float], float]:
    """CPU seconds of an update by operation, and of the whole update."""
    next(steps)
    whole = statistics.median(seconds_of(steps) for _ in range(UPDATES))
    with named_ranges(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(UPDATES):
            with record_function(UPDATE):
                next(steps)
    events = [event for event in profiler.events() if UPDATE in names_of(event)]
    taken: Counter[str] = Counter()
    for event in events:
        taken[operation_of(names_of(event))] += event.self_cpu_time_total
    share = whole / sum(taken.values())
    return {operation: time * share for operation, time in taken.items() if operation}, whole


def seconds_of(steps: Iterator[float]) -> float:
    started = process_time()
    next(steps)
    return process_time() - started


def names_of(event: Any) -> list[str]:
    """The names of an event and of those around it, from the inside."""
    names = []
    while event is not None:
        names.append(str(event.name))
        event = event.cpu_parent
    return names


def operation_of(names: list[str]) -> str:
    """The operation of the innermost event that belongs to one; "" where none does."""
    for name in names:
        found = name if name in RANGES else next((PARTS[part] for part in PARTS if part in name), "")
        if found:
            return found
    return CASTS if any("aten::copy_" in name for name in names) else ""


@contextmanager
def named_ranges() -> Iterator[None]:
    """Show the functions of `RANGES` to the profiler, by their operations' names."""
    with ExitStack() as patches:
        for operation, places in RANGES.items():
            for owner, name in places:
                patches.enter_context(patch.object(owner, name, named(operation, getattr(owner, name))))
        yield


def named(operation: str, work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(work)
    def run(*arguments: Any, **words: Any) -> Any:
        with record_function(operation):
            return work(*arguments, **words)

    return run


def floors(batch: str, dtype: torch.dtype) -> dict[str, tuple[float, str]]:
    """CPU seconds of one update for its products in this dtype, and for the copies that other operations need."""
    given = recipe(batch)
    tokens, labels = given.tokens_per_step, given.tokens_per_step - given.sequences_per_step
    products, operations = matrix_products(tokens, labels, dtype)
    pairs = (
        given.sequences_per_step * given.sequence_length**2 * CONFIG.hidden_size
    )  # of one product, half of it visible
    narrow, wide = (copy_seconds(tokens * width) for width in (CONFIG.hidden_size, CONFIG.intermediate_size))
    weights = torch.zeros(sum(parameter.numel() for parameter in trainer.new_state(CONFIG, given).model.parameters()))
    narrowed, other = weights.bfloat16(), torch.empty_like(weights)
    copied = cpu_seconds(lambda: other.copy_(weights))
    logits = torch.randn(1 << 16)
    exponentials = cpu_seconds(lambda: [torch.exp(logits) for _ in range(20)]) / (20 * logits.numel())
    return {
        PRODUCTS: (products, f"the same products in {str(dtype)[6:]} into memory at hand"),
        ATTENTION: (7 * CONFIG.layers * pairs / operations * products, "its seven products, at the rate above"),
        KERNELS: (3 * CONFIG.layers * (6 * narrow + 1.5 * wide), "three copies of each tensor"),
        SOFTMAX: (labels * CONFIG.vocab_size * exponentials, "one exponential per logit"),
        HEAD_SUMS: (copied * CONFIG.vocab_size * CONFIG.hidden_size / weights.numel(), "a copy of the head in float32"),
        ROUND: (cpu_seconds(lambda: narrowed.copy_(weights)), "the same into one tensor"),
        ADD: (cpu_seconds(lambda: other.copy_(narrowed)), "the same from one tensor"),
        CLIP: (cpu_seconds(lambda: weights.mul_(1.0)), "one product per gradient"),
        ADAMW: (3 * copied, "copies of weights and both moments"),
        EMBEDDING: (2 * narrow, "copies of the stream and its gradient"),
    }


def matrix_products(tokens: int, labels: int, dtype: torch.dtype) -> tuple[float, float]:
    """CPU seconds and floating-point operations of an update's products, forward and backward, of blocks and head."""
    hidden, inner = CONFIG.hidden_size, CONFIG.intermediate_size
    shapes = {(tokens, hidden, hidden): 4, (tokens, hidden, inner): 2, (tokens, inner, hidden): 1}
    counts = {shape: CONFIG.layers * count for shape, count in shapes.items()} | {
        (labels, hidden, CONFIG.vocab_size): 1
    }
    seconds = sum(count * linear_seconds(*shape, dtype) for shape, count in counts.items())
    operations = sum(count * 6 * rows * narrow * wide for (rows, narrow, wide), count in counts.items())
    return seconds, float(operations)


def linear_seconds(rows: int, width: int, outputs: int, dtype: torch.dtype) -> float:
    """CPU seconds of a linear layer's product and of both products of its backward pass."""
    x, weight, y = (torch.randn(shape).to(dtype) for shape in ((rows, width), (outputs, width), (rows, outputs)))
    x_slope, weight_slope, written = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(y)

    def work() -> None:
        torch.mm(x, weight.T, out=written)
        torch.mm(y, weight, out=x_slope)
        torch.mm(y.T, x, out=weight_slope)

    return cpu_seconds(lambda: [work() for _ in range(3)]) / 3


def copy_seconds(numbers: int) -> float:
    """CPU seconds of copying so many numbers in bf16."""
    values = torch.randn(numbers).bfloat16()
    room = torch.empty_like(values)
    return cpu_seconds(lambda: [room.copy_(values) for _ in range(20)]) / 20
