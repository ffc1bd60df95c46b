"""Where the time goes: `python -m benchmarks profile parameters|overhead|collect|trainer [--shape 150m|1b]`.

Each operation's CPU time, on one thread, stands beside a floor that is measured in the same run: the least time for
work that no way of computing leaves out, such as one store for each number that is counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import collect, overhead, trainer_profile
from benchmarks.checkpoint import CACHE, SHAPES, make_checkpoint
from benchmarks.forward_peers import LENGTH, matrix_products, token_file
from benchmarks.interleave import load_of
from benchmarks.operations import Clock, Place, cpu_seconds, print_operations
from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.collection import measure, recorded_pass
from olmo_dynamics.model import layers
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.recorders import (
    ActivationRecorder,
    LossRecorder,
    OutlierRecorder,
    ParameterRecorder,
    RecorderSet,
    base,
    block_stats,
    complete,
    measurable,
    row_blocks,
)
from olmo_dynamics.recorders.kernels import tensor_stats, tokens
from olmo_dynamics.recorders.kernels.elements import CODES, count_codes
from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.tensor_stats import BlockStats, TensorStats
from olmo_dynamics.recorders.massive import MassiveActivations
from olmo_dynamics.recorders.parameters import parameter_records

WORKS = ("parameters", "overhead", "collect")

PRODUCTS, ATTENTION, KERNEL = "matrix products", "attention", "kernel of activations: counts, medians, sums"
NORMS, ROPE, GATE = "norms", "RoPE", "SiLU and its product"

MODEL: dict[str, list[Place]] = {
    PRODUCTS: [(F, "linear")],
    ATTENTION: [(F, "scaled_dot_product_attention")],
    NORMS: [(layers.RMSNorm, "forward")],
    ROPE: [(layers, "rotate")],
    GATE: [(layers.SwiGLU, "gated")],
    "losses and logits": [(LossRecorder, "observe")],
}
RECORDING: dict[str, list[Place]] = {
    KERNEL: [(tokens, "pass_over_tokens")],
    "activations around the kernel": [(ActivationRecorder, "observe"), (base, "token_codes")],
    "outliers": [(OutlierRecorder, "observe")],
    "massive activations": [(MassiveActivations, "add")],
    "merging parts, and records": [(recorded_pass._ProbePass, "_merge")],
    "recorders for each part": [(RecorderSet, "fresh")],
}
WEIGHTS: dict[str, list[Place]] = {
    "parameters: counts and sums": [(tensor_stats, "pass_over_codes")],
    "parameters: blocks joined, order statistics": [(measure, "complete"), (tensor_stats, "weigh")],
    "parameters: records": [(ParameterRecorder, "observe")],
}


@jit
def _scan(words: np.ndarray) -> np.uint64:
    found = np.uint64(0)
    for i in range(len(words)):
        found |= words[i]
    return found


@jit
def _store(codes: np.ndarray, table: np.ndarray) -> None:
    for i in range(len(codes)):
        table[codes[i]] = np.uint32(i)


def seconds_per_number(work: Callable[[np.ndarray], Any]) -> float:
    """CPU seconds for each of many bfloat16 codes that stay in the nearest cache."""
    values = torch.randn(16_384, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes = values.view(torch.int16).numpy().view(np.uint16)
    return cpu_seconds(lambda: [work(codes) for _ in range(200)]) / (200 * codes.size)


def profile_parameters(folder: Path, _: Path) -> None:
    """Statistics of all tensors, operation by operation, each over the whole checkpoint."""
    source = open_source(folder.parent)
    clock = Clock()
    table = np.zeros(CODES, np.uint32)
    with source.open(source.find(folder.name)) as checkpoint:
        infos = [info for info in checkpoint.tensors.values() if measurable(info)]
        jobs = [(raw, info, rows) for info, raw in zip(infos, checkpoint.read_parts(infos), strict=True)
                for rows in row_blocks(info)]  # fmt: skip
        fresh = clock.charged("first", lambda: [block_stats(*job) for job in jobs])
        parts = fresh()
        warm = cpu_seconds(lambda: [block_stats(*job) for job in jobs])
        counted = cpu_seconds(lambda: [block_stats(raw, without_axes(info), rows) for raw, info, rows in jobs])
        scanned = cpu_seconds(lambda: [_scan(raw.view(np.uint64)) for raw in checkpoint.read_many(infos).values()])
        finish = clock.charged("completed", lambda: [complete(each) for each in by_tensor(jobs, parts)])
        done: list[TensorStats] = finish()
        records = clock.charged(
            "recorded", lambda: [parameter_records(*each) for each in zip(done, infos, strict=True)]
        )
        records()
        numbers = sum(info.size for info in infos)
    taken = {
        "counting codes": counted,
        "squares by row and column": warm - counted,
        "mapping pages, first reading": clock.seconds["first"] - warm,
        "blocks joined, order statistics": clock.seconds["completed"],
        "records": clock.seconds["recorded"],
    }
    store = seconds_per_number(lambda codes: _store(codes, table)) * numbers
    floors = {
        "counting codes": (store, "one store per number"),
        "squares by row and column": (scanned, "reading the bytes"),
    }
    print_operations(f"Parameter statistics, {folder.parent.name}", taken, floors, sum(taken.values()))


def without_axes(info: TensorInfo) -> TensorInfo:
    """The same tensor under a name that is not known to touch the residual stream, so that rows and columns are not summed."""
    return replace(info, name="unknown.weight")


def by_tensor(jobs: list[Any], parts: list[BlockStats]) -> list[list[BlockStats]]:
    found: dict[str, list[BlockStats]] = {}
    for (_, info, _), part in zip(jobs, parts, strict=True):
        found.setdefault(info.name, []).append(part)
    return list(found.values())


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
            floors_of_pass(folder, token_path, numbers.seen),
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
        floors_of_pass(folder, token_path, numbers.seen),
        whole,
    )


def process_seconds(work: Callable[[], object]) -> float:
    started = process_time()
    work()
    return process_time() - started


class Numbers:
    """The count of numbers that recorders of activations are given."""

    def __init__(self) -> None:
        self.seen = 0

    def counted(self) -> Any:
        def counting(codes: np.ndarray, rows: np.ndarray, *rest: Any) -> None:
            self.seen += len(rows) * codes.shape[1]
            work(codes, rows, *rest)

        work = tokens.pass_over_tokens
        return patch.object(tokens, "pass_over_tokens", counting)


def floors_of_pass(folder: Path, token_path: Path, numbers: int) -> dict[str, tuple[float, str]]:
    """CPU seconds of one pass for the products alone, and for as many copies of tensors as other operations cannot do without."""
    shape, count = SHAPES[folder.parent.name], np.load(token_path).size
    products, operations = matrix_products_alone(folder, token_path)
    wide, narrow = (copy_seconds(width) for width in (shape.intermediate, shape.hidden))
    mixed = (
        2 * shape.layers * count * LENGTH * shape.hidden
    )  # two products, of the half that is not hidden from a token
    stored = seconds_per_number(lambda codes: count_codes(codes, np.zeros(CODES, np.int64)))
    calls = shape.layers * count / LENGTH
    return {
        PRODUCTS: (products, "the same products into memory at hand"),
        ATTENTION: (mixed / operations * products, "its own products, at the rate above"),
        NORMS: (4 * calls * narrow, "a copy of each tensor"),
        ROPE: (2 * calls * narrow, "a copy of each tensor"),
        GATE: (2 * calls * wide, "a copy of both tensors"),
        KERNEL: (numbers * stored, "one count per number"),
    }


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
    parser.add_argument("work", choices=[*WORKS, "trainer"])
    parser.add_argument("--shape", choices=list(SHAPES), default="150m")
    parsed = parser.parse_args(given)
    if parsed.work == "trainer":
        trainer_profile.report()
        return
    torch.set_num_threads(1)
    works = dict(zip(WORKS, (profile_parameters, profile_overhead, profile_collect), strict=True))
    for shape in ("tiny", parsed.shape):  # kernels are compiled, or loaded, by the first
        folder = make_checkpoint(shape, CACHE)
        with redirect_stdout(StringIO()) if shape != parsed.shape else nullcontext():
            works[parsed.work](folder, token_file(folder))
    print(load_of({}))
