"""Run the benchmarks: `python -m benchmarks [--shape 150m|1b] [--repeats N] [--whole] [p1 … p8]`."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import p1_parameters, p2_collect, p3_wire, p4_memory, p5_overhead, p6_trainer, p7_store, p8_start
from benchmarks.checkpoint import SHAPES, make_checkpoint
from benchmarks.forward_peers import LENGTH
from benchmarks.turns import Turn, median_seconds, print_table, take_turns

HERE = Path(__file__).parent
CACHE = HERE.parent / "cache" / "bench"
RESULTS = HERE / "results"
ALL = [f"p{number}" for number in range(1, 9)]


def tokens_of(shape: str) -> str:
    """How many are measured; half as many at 1b, to save time there."""
    return f"{SHAPES[shape].sequences} x {LENGTH} tokens"


def run_p1(folder: Path, shape: str, repeats: int) -> dict[str, list[Turn]]:
    mine, slow = "ours", "safe_open + torch ops"
    turns = take_turns(
        "benchmarks.p1_parameters", p1_parameters.METHODS, arguments=[str(folder)], repeats=repeats,
        once=[slow] if shape == "1b" else [],
    )  # fmt: skip
    print_table(f"P1  parameter statistics, {shape}, bf16, warm page cache", turns, ours=mine)
    if shape == "1b":
        print(f"{slow} takes a minute or more a turn at 1b: it has one")
    limit = median_seconds(turns["pread, two threads"]) / median_seconds(turns[mine])
    error = abs(turns[mine][0].result / turns[slow][0].result - 1)
    print(
        f"share of the two-thread pread rate: {limit:.1%} (target 50 %)   total L2 against float64: {error:.1e} relative"
    )
    return turns


def run_p2(folder: Path, shape: str, repeats: int) -> dict[str, list[Turn]]:
    turns = take_turns("benchmarks.p2_collect", p2_collect.METHODS, arguments=[str(folder)], repeats=repeats)
    mine, peer, limit = p2_collect.METHODS
    print_table(f"P2  collect one local revision, {shape}, bf16, {tokens_of(shape)}", turns, ours=mine)
    seconds = {method: median_seconds(taken) for method, taken in turns.items()}
    memory = max(t.peak_bytes for t in turns[mine]) / max(t.peak_bytes for t in turns[peer])
    losses = (turns[mine][0].result, turns[peer][0].result)
    print(
        f"share of the GEMM limit: {seconds[limit] / seconds[mine]:.1%} (target 75 %; the peer's own "
        f"{seconds[limit] / seconds[peer]:.1%})   memory against the peer: {memory:.2f} (target 0.15)"
    )
    print(f"loss: ours {losses[0]:.4f}, transformers {losses[1]:.4f}")
    return turns


def run_p3(folder: Path, shape: str, repeats: int) -> dict[str, list[Turn]]:
    turns = take_turns("benchmarks.p3_wire", p3_wire.METHODS, arguments=[str(folder)], repeats=repeats)
    print_table(f"P3  three revisions in a row over HTTP, {shape}, bf16, {tokens_of(shape)}", turns, ours="folder")
    computing = median_seconds(turns["folder"])
    for method, rate in p3_wire.RATES.items():
        seconds, moving = median_seconds(turns[method]), turns[method][0].result / rate
        limit = max(moving, computing)
        print(f"{method}: {seconds / limit:.2f} x the limit (target 1.15), link busy {moving / seconds:.0%}")
    return turns


def run_p4(*, whole: bool) -> dict[str, list[Turn]]:
    methods = (*p4_memory.METHODS, *([p4_memory.WHOLE] if whole else []))
    turns = take_turns("benchmarks.p4_memory", methods, arguments=[], repeats=1)
    print_table("P4  memory: layers of a 32B model over HTTP, 1 x 64 tokens (target 8 GB)", turns, ours=methods[0])
    return turns


def run_p5(folder: Path, shape: str, repeats: int) -> dict[str, list[Turn]]:
    turns = take_turns("benchmarks.p5_overhead", p5_overhead.METHODS, arguments=[str(folder)], repeats=repeats)
    bare, recorded = p5_overhead.METHODS
    print_table(f"P5  recording beside the forward pass, {shape}, bf16, {tokens_of(shape)}", turns, ours=bare)
    added = median_seconds(turns[recorded]) / median_seconds(turns[bare]) - 1
    print(f"recording adds {added:.1%} (target 5 %)")
    return turns


def run_p6(repeats: int) -> dict[str, list[Turn]]:
    turns = {}
    for title, taken in p6_trainer.measure(repeats).items():
        print_table(f"P6  {title}, bf16", taken, ours=next(iter(taken)))
        turns |= {f"{title}: {method}": each for method, each in taken.items()}
    return turns


def run_p8(repeats: int) -> dict[str, list[Turn]]:
    turns = take_turns("benchmarks.p8_start", p8_start.METHODS, arguments=[], repeats=repeats)
    print_table("P8  start: processes, wall time", turns, ours=p8_start.METHODS[0])
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*ALL, []], help="default: all")
    parser.add_argument("--shape", choices=[name for name in SHAPES if name != "tiny"], default="150m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="P4 with all 64 layers of a 32B model: 64 GB, minutes")
    given = parser.parse_args()
    which = given.which or ALL
    shape, repeats = given.shape, given.repeats
    folder = make_checkpoint(shape, CACHE) if {"p1", "p2", "p3", "p5"} & set(which) else CACHE
    work: dict[str, Callable[[], dict[str, list[Turn]]]] = {
        "p1": lambda: run_p1(folder, shape, repeats),
        "p2": lambda: run_p2(folder, shape, repeats),
        "p3": lambda: run_p3(folder, shape, min(repeats, 3)),
        "p4": lambda: run_p4(whole=given.whole),
        "p5": lambda: run_p5(folder, shape, repeats if shape != "1b" else min(repeats, 3)),
        "p6": lambda: run_p6(repeats),
        "p8": lambda: run_p8(repeats),
    }
    results = {name: run() for name, run in work.items() if name in which}
    if "p7" in which:
        p7_store.report(500, repeats)
    save(results, given.shape)


def save(results: dict[str, dict[str, list[Turn]]], shape: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    for name, turns in results.items():
        medians = {method: statistics.median(turn.seconds for turn in taken) for method, taken in turns.items()}
        content = {"benchmark": name, "shape": shape, **machine, "median_seconds": medians,
                   "turns": {method: [asdict(turn) for turn in taken] for method, taken in turns.items()}}  # fmt: skip
        path = RESULTS / f"{name}-{shape}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
