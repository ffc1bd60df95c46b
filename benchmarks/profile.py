"""The time of each operation: `python -m benchmarks profile NAME [--shape 150m|1b] [--dtype D]`; --help lists the names.

Each operation's CPU time, on one thread, stands beside a floor that is measured in the same run: the least time for
work that no way of computing leaves out, such as one store for each number that is counted.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import collect, network_profile, overhead, trainer_profile
from benchmarks.checkpoint import CACHE, SHAPES, Shape, make_checkpoint
from benchmarks.forward_peers import LENGTH, matrix_products, token_file
from benchmarks.interleave import load_of
from benchmarks.operations import Clock, Place, cpu_seconds, print_operations
from benchmarks.parameters_profile import profile_parameters, scan, seconds_per_number
from olmo_dynamics.collection import measure, recorded_pass
from olmo_dynamics.model import layers
from olmo_dynamics.names import Site
from olmo_dynamics.recorders import (
    ActivationRecorder,
    LossRecorder,
    OutlierRecorder,
    ParameterRecorder,
    RecorderSet,
    base,
)
from olmo_dynamics.recorders.kernels import tensor_stats
from olmo_dynamics.recorders.kernels.accumulators import describe_counts
from olmo_dynamics.recorders.kernels.bfloat16 import token_pass
from olmo_dynamics.recorders.kernels.elements import CODES, count_codes
from olmo_dynamics.recorders.kernels.token_codes import TokenRows
from olmo_dynamics.recorders.massive import MassiveActivations

WORKS = ("parameters", "overhead", "collect")


PRODUCTS, ATTENTION, KERNEL = "matrix products", "attention", "kernel of activations: counts, medians, sums"
NORMS, ROPE, GATE, LOSSES = "norms", "RoPE", "SiLU and its product", "losses and logits"
AROUND, OUTLIERS, MASSIVE = "activations around the kernel", "outliers", "massive activations"
MERGING, FRESH, REST = "merging parts, and records", "recorders for each part", "everything else"

MODEL: dict[str, list[Place]] = {
    PRODUCTS: [(F, "linear")],
    ATTENTION: [(F, "scaled_dot_product_attention")],
    NORMS: [(layers.RMSNorm, "forward")],
    ROPE: [(layers, "rotate")],
    GATE: [(layers.SwiGLU, "gated")],
    LOSSES: [(LossRecorder, "observe")],
}
RECORDING: dict[str, list[Place]] = {
    KERNEL: [(token_pass, "_pass")],
    AROUND: [
        (ActivationRecorder, "observe"),
        (base, "token_codes"),
        (recorded_pass, "observation"),
        (RecorderSet, "observe"),
    ],
    OUTLIERS: [(OutlierRecorder, "observe")],
    MASSIVE: [(MassiveActivations, "add")],
    MERGING: [(recorded_pass._ProbePass, "_merge")],
    FRESH: [(RecorderSet, "fresh")],
}
WEIGHTS: dict[str, list[Place]] = {
    "parameters: counts and sums": [(tensor_stats, "pass_over_codes")],
    "parameters: blocks joined, order statistics": [(measure, "complete"), (tensor_stats, "weigh")],
    "parameters: records": [(ParameterRecorder, "observe")],
}


def profile_overhead(folder: Path, token_path: Path) -> None:
    """The pass with activations and outliers recorded, beside the pass without."""
    wholes, clocks = [], []
    for title, groups in zip(("Bare pass", "Recorded pass"), overhead.GROUPS.values(), strict=True):
        clock, numbers = Clock(), Numbers()
        with clock.watching(MODEL | RECORDING), numbers.counted():
            whole = process_seconds(lambda groups=groups: overhead.forward(folder, token_path, groups))
        print_operations(
            f"{title}, {folder.parent.name}, bf16",
            clock.seconds,
            floors_of_pass(folder, token_path, numbers),
            whole,
        )
        wholes.append(whole)
        clocks.append(clock)
    bare, recorded = clocks
    slower = sum(recorded.seconds[each] - bare.seconds[each] for each in MODEL)
    print(
        f"recording adds {wholes[1] / wholes[0] - 1:.1%} of CPU time, of which {slower:.2f} s in the model's own operations"
    )


def profile_collect(folder: Path, token_path: Path) -> None:
    """A revision with every default group."""
    clock, numbers = Clock(), Numbers()
    with clock.watching(MODEL | RECORDING | WEIGHTS), numbers.counted():
        whole = process_seconds(lambda: collect.collected(folder, token_path, threads=1))
    print_operations(
        f"Collecting, {folder.parent.name}, bf16",
        clock.seconds,
        floors_of_pass(folder, token_path, numbers),
        whole,
    )


def process_seconds(work: Callable[[], object]) -> float:
    gc.collect()  # what imports left is not looked through while the clock runs
    started = process_time()
    work()
    return process_time() - started


class Numbers:
    """The count of numbers that recorders of activations are given, and how often they are."""

    def __init__(self) -> None:
        self.seen = 0
        self.calls = 0

    def counted(self) -> Any:
        def counting(codes: np.ndarray, *rest: Any) -> Any:
            self.seen += codes.size
            self.calls += 1
            return work(codes, *rest)

        work = token_pass._pass
        return patch.object(token_pass, "_pass", counting)


def floors_of_pass(folder: Path, token_path: Path, numbers: Numbers) -> dict[str, tuple[float, str]]:
    """CPU seconds of one pass for the products alone, and for the least that each other operation cannot do without."""
    shape, count = SHAPES[folder.parent.name], np.load(token_path).size
    products, operations = matrix_products_alone(folder, token_path)
    wide, narrow = (copy_seconds(width) for width in (shape.intermediate, shape.hidden))
    mixed = (
        2 * shape.layers * count * LENGTH * shape.hidden
    )  # two products, of the half that is not hidden from a token
    calls = shape.layers * count / LENGTH
    floors = {
        PRODUCTS: (products, "the same products into memory at hand"),
        ATTENTION: (mixed / operations * products, "its own products, at the rate above"),
        NORMS: (4 * calls * narrow, "a copy of each tensor"),
        ROPE: (2 * calls * narrow, "a copy of each tensor"),
        GATE: (2 * calls * wide, "a copy of both tensors"),
        LOSSES: (count * shape.vocabulary * exponential_seconds(), "one exponential per logit"),
        REST: (3 * calls * narrow, "a copy of what each half and each block adds up"),
    }
    return floors | floors_of_recording(shape, count, numbers) if numbers.calls else floors


def floors_of_recording(shape: Shape, count: int, numbers: Numbers) -> dict[str, tuple[float, str]]:
    """The same for the operations of recorders."""
    table = np.zeros(CODES, np.uint32)
    counted = seconds_per_number(lambda codes: count_codes(codes, table))
    scanned = seconds_per_number(lambda codes: scan(codes.view(np.uint64)))
    stream = (shape.layers + 1) * count * shape.hidden
    places = numbers.calls * LENGTH / count
    return {
        KERNEL: (numbers.seen * counted, "one count per number"),
        AROUND: (numbers.calls * call_seconds(), "the same calls for one number, in the cache"),
        OUTLIERS: (2 * stream * scanned, "a scan of two inputs of each block"),
        MASSIVE: (2 * stream * scanned, "two scans of the stream"),
        MERGING: (
            places * describe_seconds(),
            "one scan of the counts of each site, and of those without first positions",
        ),
        FRESH: (0.0, ""),
    }


def exponential_seconds() -> float:
    """CPU seconds for each of many exponentials."""
    values = torch.randn(LENGTH, 2048)
    room = torch.empty_like(values)
    return cpu_seconds(lambda: torch.exp(values, out=room)) / values.numel()


def call_seconds() -> float:
    """CPU seconds to record one number at one site."""
    mask = np.ones((1, 1), bool)
    values = torch.ones(1, 1, 1, dtype=torch.bfloat16)
    rows = TokenRows.of(mask)

    def record() -> None:
        seen = base.Observation(values=values, site=Site.RESIDUAL_OUT, layer=0, mask=mask, token_rows=rows)
        ActivationRecorder().observe(seen)

    return cpu_seconds(lambda: [record() for _ in range(1000)]) / 1000


def describe_seconds() -> float:
    """CPU seconds for the moments and the median of a table of counts, twice."""
    codes = torch.randn(16_384, generator=torch.Generator().manual_seed(0)).bfloat16().view(torch.uint16).numpy()
    table = np.bincount(codes, minlength=CODES)
    largest = np.int64((codes & 0x7FFF).max())
    return 2 * cpu_seconds(lambda: [describe_counts(table, largest) for _ in range(100)]) / 100


def matrix_products_alone(folder: Path, token_path: Path) -> tuple[float, float]:
    """CPU seconds of the pass's products, and the number of floating-point operations."""
    started = process_time()
    operations = matrix_products(folder, token_path)
    return process_time() - started, operations


def copy_seconds(width: int) -> float:
    values = torch.randn(LENGTH, width).bfloat16()
    room = torch.empty_like(values)
    return cpu_seconds(lambda: [room.copy_(values) for _ in range(100)]) / 100


def main(given: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks profile", description=__doc__)
    parser.add_argument("work", choices=[*WORKS, "network", "trainer"])
    parser.add_argument("--shape", choices=list(SHAPES), default="150m")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of parameters")
    parsed = parser.parse_args(given)
    if parsed.dtype != "bfloat16" and parsed.work != "parameters":
        parser.error(f"--dtype belongs to parameters (got it with {parsed.work})")
    if parsed.work == "trainer":
        trainer_profile.report()
        return
    if parsed.work == "network":
        network_profile.report(make_checkpoint(parsed.shape, CACHE))
        return
    torch.set_num_threads(1)
    works = dict(zip(WORKS, (profile_parameters, profile_overhead, profile_collect), strict=True))
    for shape in ("tiny", parsed.shape):  # kernels are compiled, or loaded, by the first
        folder = make_checkpoint(shape, CACHE, dtype=getattr(torch, parsed.dtype))
        with redirect_stdout(StringIO()) if shape != parsed.shape else nullcontext():
            works[parsed.work](folder, token_file(CACHE / shape / folder.name))
    print(load_of({}))
