"""Parameter statistics, operation by operation: CPU seconds on one thread, each beside a floor measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np
import torch

from benchmarks.operations import Clock, cpu_seconds, print_operations
from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.recorders import block_stats, complete, measurable, row_blocks
from olmo_dynamics.recorders.kernels import order_statistics
from olmo_dynamics.recorders.kernels.elements import CODES
from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.tensor_stats import BlockStats, TensorStats
from olmo_dynamics.recorders.parameters import parameter_records

_POPULATE_READ = 22  # advice that Linux knows since 5.14, and Python's mmap does not name


@jit
def scan(words: np.ndarray) -> np.uint64:
    found = np.uint64(0)
    for i in range(len(words)):
        found |= words[i]
    return found


@jit
def store(codes: np.ndarray, table: np.ndarray) -> None:
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
    clock, populated = Clock(), seconds_to_populate(folder)
    table = np.zeros(CODES, np.uint32)
    with source.open(source.find(folder.name)) as checkpoint:
        infos = [info for info in checkpoint.tensors.values() if measurable(info)]
        jobs = [(raw, info, rows) for info, raw in zip(infos, checkpoint.read_parts(infos), strict=True)
                for rows in row_blocks(info)]  # fmt: skip
        fresh = clock.charged("first", lambda: [block_stats(*job) for job in jobs])
        parts = fresh()
        warm = cpu_seconds(lambda: [block_stats(*job) for job in jobs])
        counted = cpu_seconds(lambda: [block_stats(raw, without_axes(info), rows) for raw, info, rows in jobs])
        scanned = cpu_seconds(lambda: [scan(raw.view(np.uint64)) for raw in checkpoint.read_many(infos).values()])
        finish = clock.charged("completed", lambda: [complete(each) for each in by_tensor(jobs, parts)])
        with clock.watching({"gathered": [(order_statistics, "gather")]}):
            done: list[TensorStats] = finish()
        records = clock.charged(
            "recorded", lambda: [parameter_records(*each) for each in zip(done, infos, strict=True)]
        )
        made = records()
        tallies = cpu_seconds(lambda: [part.tally.counts.cumsum() for part in parts])
        copied = cpu_seconds(lambda: [np.array(record.values) for found in made for record in found])
        numbers = sum(info.size for info in infos)
    first, joined, second = (
        "mapping pages, first reading",
        "blocks joined, order statistics",
        "second pass: gathering lower halves",
    )
    taken = {
        first: clock.seconds["first"] - warm,
        joined: clock.seconds["completed"],
        "records": clock.seconds["recorded"],
    }
    stored = seconds_per_number(lambda codes: store(codes, table)) * numbers
    floors = {
        first: (populated, "populating the mapping"),
        joined: (tallies, "one running sum of each block's counts"),
        "records": (copied, "a copy of each array"),
    }
    if infos[0].dtype == "F32":
        taken |= {"first pass: counts and sums": warm, second: clock.seconds["gathered"]}
        floors |= {
            "first pass: counts and sums": (stored, "one store per number"),
            second: (scanned, "reading the bytes"),
        }
    else:
        taken |= {"counting codes": counted, "squares by row and column": warm - counted}
        floors |= {"counting codes": (stored, "one store per number"),
                   "squares by row and column": (scanned, "reading the bytes")}  # fmt: skip
    print_operations(f"Parameter statistics, {folder.parent.name}", taken, floors, sum(taken.values()))
    print(f"{1e9 * sum(taken.values()) / numbers:.2f} ns per element")


def seconds_to_populate(folder: Path) -> float:
    """CPU seconds for mapping all pages of the checkpoint at once; 0, and no floor, where the system cannot."""
    started = thread_time()
    for shard in folder.glob("*.safetensors"):
        with shard.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapping:
            try:
                mapping.madvise(_POPULATE_READ)
            except OSError:
                return 0.0
    return thread_time() - started


def without_axes(info: TensorInfo) -> TensorInfo:
    """The same tensor under a name that is not known to touch the residual stream, so that rows and columns are not summed."""
    return replace(info, name="unknown.weight")


def by_tensor(jobs: list[Any], parts: list[BlockStats]) -> list[list[BlockStats]]:
    found: dict[str, list[BlockStats]] = {}
    for (_, info, _), part in zip(jobs, parts, strict=True):
        found.setdefault(info.name, []).append(part)
    return list(found.values())
