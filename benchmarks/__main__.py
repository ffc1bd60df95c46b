"""Run the benchmarks: `python -m benchmarks [NAME …] [--shape 150m|1b] [--repeats N] [--whole] [--groups NAMES] [--dtype D]`."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import (
    against,
    collect,
    feed,
    inside,
    memory,
    network,
    overhead,
    parameters,
    profile,
    small,
    small_profile,
    startup,
    store,
    trainer,
    weights,
    workers,
)
from benchmarks.checkpoint import CACHE, RESULTS, SHAPES, make_checkpoint
from benchmarks.forward_peers import LENGTH
from benchmarks.interleave import (
    Timing,
    interleave,
    load_of,
    median_cpu,
    median_seconds,
    peak_of,
    print_table,
    result_of,
)

Timings = dict[str, list[Timing]]

ALL = (
    *("parameters", "weights", "collect", "network", "memory", "overhead", "inside", "feed"),
    *("trainer", "store", "small", "startup", "workers"),
)
NEED_A_CHECKPOINT = {"parameters", "weights", "collect", "network", "overhead", "inside", "feed"}


def tokens_of(shape: str) -> str:
    """The probe's size; half as many sequences at 1b, to save time there."""
    return f"{SHAPES[shape].sequences} x {LENGTH} tokens"


def run_parameters(folder: Path, shape: str, repeats: int) -> Timings:
    this, _, slow, reading = parameters.METHODS
    timings = interleave(
        "benchmarks.parameters", parameters.METHODS, arguments=[str(folder)], repeats=repeats,
        once=[slow] if shape == "1b" else [],
    )  # fmt: skip
    print_table(f"Parameter statistics, {shape}, bf16, warm page cache", timings, reference=this)
    if shape == "1b":
        print(f"{slow} takes a minute or more per run at 1b: it ran once")
    limit = median_seconds(timings[reading]) / median_seconds(timings[this])
    error = abs(result_of(timings[this]) / result_of(timings[slow]) - 1)
    print(
        f"share of the two-thread pread rate: {limit:.1%} (target 60 %)   total L2 against float64: {error:.1e} relative"
    )
    return timings


def run_weights(folder: Path, shape: str, repeats: int) -> Timings:
    weights.later_revision(folder)
    timings = interleave("benchmarks.weights", weights.METHODS, arguments=[str(folder)], repeats=repeats)
    alone, sketched, spectra = weights.GROUPS
    print_table(f"Sketches and spectra of one local revision, {shape}, bf16, warm page cache", timings, reference=alone)
    cpu = {method: median_cpu(taken) for method, taken in timings.items()}
    print(
        f"CPU time beside parameters: sketches add {cpu[sketched] / cpu[alone] - 1:.0%} (target 60 %); spectra add "
        f"{cpu[spectra] - cpu[alone]:.1f} s (target 25 % of the CPU time of `collect`)   {weights.PEER}: "
        f"{cpu[weights.PEER] / (2 * cpu[sketched]):.1f} x the CPU time of both revisions' sketches"
    )
    return timings


def run_collect(folder: Path, shape: str, repeats: int) -> Timings:
    timings = interleave("benchmarks.collect", collect.METHODS, arguments=[str(folder)], repeats=repeats)
    this, other, limit = collect.METHODS
    print_table(f"Collecting one local revision, {shape}, bf16, {tokens_of(shape)}", timings, reference=this)
    seconds = {method: median_seconds(taken) for method, taken in timings.items()}
    memory_ratio = peak_of(timings[this]) / peak_of(timings[other])
    print(
        f"share of the rate of the matrix products alone: {seconds[limit] / seconds[this]:.1%} "
        f"(targets 83 %, 78 % at 150m; {other}: {seconds[limit] / seconds[other]:.1%})   "
        f"memory against {other}: {memory_ratio:.2f} (target 0.15)"
    )
    print(f"loss: {this} {result_of(timings[this]):.4f}, {other} {result_of(timings[other]):.4f}")
    return timings


def run_network(folder: Path, shape: str, repeats: int) -> Timings:
    timings = interleave("benchmarks.network", network.METHODS, arguments=[str(folder)], repeats=repeats)
    title = f"Eight revisions in a row over HTTP, {shape}, bf16, {network.SEQUENCES} x {LENGTH} tokens"
    print_table(title, timings, reference="folder")
    computing = median_seconds(timings["folder"])
    for method, rate in network.RATES.items():
        if not timings[method]:
            continue
        shares, busy = zip(*(over_the_limit(each, rate, computing) for each in timings[method]), strict=True)
        print(
            f"{method}: {statistics.median(shares):.2f} x the limit (target 1.05), link busy {statistics.median(busy):.0%} "
            "between the first byte and the last (target 95 % where it is the limit)"
        )
    most = max(each.details["process_bytes"] for taken in timings.values() for each in taken)
    print(f"peak memory of the whole process: {most / 1e6:.0f} MB (target 800 MB)")
    return timings


def over_the_limit(timing: Timing, rate: float, computing: float) -> tuple[float, float]:
    """The time over the limit, and the share of the time between the first byte and the last in which the link was busy."""
    told, moving = timing.details, timing.result / rate
    after = timing.seconds - told["last_byte"] if moving > computing else 0.0
    limit = max(moving, computing) + told["first_block"] + after
    return timing.seconds / limit, moving / (told["last_byte"] - told["first_byte"])


def run_memory(*, whole: bool) -> Timings:
    methods = (*memory.METHODS, *([memory.WHOLE] if whole else []))
    timings = interleave("benchmarks.memory", methods, arguments=[], repeats=1)
    title = "Memory: layers of a 32B model over HTTP, 1 x 64 tokens (target 8 GB)"
    print_table(title, timings, reference=methods[0])
    return timings


def run_overhead(folder: Path, shape: str, repeats: int) -> Timings:
    timings = interleave("benchmarks.overhead", overhead.METHODS, arguments=[str(folder)], repeats=repeats)
    bare, recorded = overhead.METHODS
    print_table(f"Recording beside the forward pass, {shape}, bf16, {tokens_of(shape)}", timings, reference=bare)
    added = median_seconds(timings[recorded]) / median_seconds(timings[bare]) - 1
    print(f"recording adds {added:.1%} (targets 8 % at 150m, 3 % at 1b)")
    return timings


def run_feed(folder: Path, shape: str, repeats: int) -> Timings:
    weights.later_revision(folder)
    timings = interleave("benchmarks.feed", feed.METHODS, arguments=[str(folder)], repeats=repeats)
    fed, bare = feed.METHODS
    print_table(f"Activation feed of two local revisions, {shape}, bf16, {tokens_of(shape)}", timings, reference=bare)
    cpu = {method: median_cpu(taken) for method, taken in timings.items()}
    print(f"rate of the feed: {cpu[bare] / cpu[fed]:.2f} of the bare pass by CPU time (target 0.8)")
    return timings


def run_inside(
    folder: Path, shape: str, repeats: int, *, chosen: str = "", dtype: str = "float32", sequences: int = 0
) -> Timings:
    named = [each for each in chosen.split(",") if each]
    methods = (inside.BARE, *named, *inside.PEERS) if named else inside.methods()
    arguments = [str(folder), dtype, str(sequences)]
    timings = interleave("benchmarks.inside", methods, arguments=arguments, repeats=repeats)
    size = f"{sequences or SHAPES[shape].sequences} x {LENGTH} tokens"
    print_table(f"Groups beside the pass, {shape}, {dtype}, {size}", timings, reference=inside.BARE)
    for clock, median in (("seconds", median_seconds), ("CPU seconds", median_cpu)):
        medians = {name: median(taken) for name, taken in timings.items()}
        ratios = {name: seconds / medians[inside.BARE] for name, seconds in medians.items()}
        said = (f"{name} {ratio:.2f}" + limit_of(name) for name, ratio in ratios.items())
        print(f"{clock} over the {inside.BARE}: {', '.join(said)}")
    return timings


def limit_of(group: str) -> str:
    return f" (limit {inside.LIMITS[group]})" if group in inside.LIMITS else ""


def run_trainer(repeats: int) -> Timings:
    timings = {}
    for title, taken in trainer.measure(repeats).items():
        print_table(f"{title.capitalize()}, bf16", taken, reference=next(iter(taken)))
        if trainer.TRAINER in taken:
            print(trainer.against_trainer(taken))
        timings |= {f"{title}: {method}": each for method, each in taken.items()}
    return timings


def run_small(repeats: int) -> Timings:
    run = small.make_run(CACHE)
    timings = interleave("benchmarks.small", small.METHODS, arguments=[str(run)], repeats=repeats)
    windows, length = small.WINDOWS
    title = f"A revision of a small model, 1.2 M, float32, {windows} x {length} tokens; memory of the whole process"
    alone, everything = small.METHODS
    print_table(title, timings, reference=alone)
    ratio = median_cpu(timings[everything]) / median_cpu(timings[alone])
    print(
        f"CPU time of every default group: {ratio:.2f} x that of the loss alone (target 1.3, and 0.5 s for the loss alone)"
    )
    small_profile.report(run)
    return timings


def run_startup(repeats: int) -> Timings:
    arguments = [str(startup.make_store(CACHE))]
    timings = interleave("benchmarks.startup", startup.METHODS, arguments=arguments, repeats=repeats)
    timings |= interleave("benchmarks.startup", [startup.DEMO], arguments=arguments, repeats=min(repeats, 3))
    print_table("Start: processes, with the CPU time of their own", timings, reference=startup.METHODS[-1])
    for method, limit in startup.LIMITS.items():
        print(f"{method}: {median_seconds(timings[method]):.2f} s (limit {limit:g} s)")
    return timings


def main() -> None:
    if sys.argv[1:2] == ["against"]:
        against.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["profile"]:
        profile.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*ALL, []], metavar="NAME", help=f"of {', '.join(ALL)}; default: all"
    )
    parser.add_argument("--shape", choices=list(SHAPES), default="150m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="memory with all 64 layers of a 32B model: 64 GB, minutes")
    parser.add_argument("--groups", default="", help="of inside: groups with commas between them; default: all")
    parser.add_argument("--dtype", choices=list(inside.DTYPES), default="float32", help="of inside")
    parser.add_argument("--sequences", type=int, default=0, help="of inside: sequences of 512 tokens")
    given = parser.parse_args()
    names = given.names or ALL
    shape, repeats = given.shape, given.repeats
    folder = make_checkpoint(shape, CACHE) if NEED_A_CHECKPOINT & set(names) else CACHE
    work: dict[str, Callable[[], Timings]] = {
        "parameters": lambda: run_parameters(folder, shape, repeats),
        "weights": lambda: run_weights(folder, shape, min(repeats, 3)),
        "collect": lambda: run_collect(folder, shape, repeats),
        "network": lambda: run_network(folder, shape, repeats),
        "memory": lambda: run_memory(whole=given.whole),
        "overhead": lambda: run_overhead(folder, shape, repeats if shape != "1b" else min(repeats, 3)),
        "feed": lambda: run_feed(folder, shape, min(repeats, 3)),
        "inside": lambda: run_inside(
            folder, shape, repeats, chosen=given.groups, dtype=given.dtype, sequences=given.sequences
        ),
        "trainer": lambda: run_trainer(repeats),
        "small": lambda: run_small(repeats),
        "startup": lambda: run_startup(repeats),
        "workers": workers.report,
    }
    failed = run_all({name: run for name, run in work.items() if name in names}, shape)
    if "store" in names:
        store.report(500, repeats)
        print(load_of({}))
    if failed:
        raise SystemExit("failed: " + ", ".join(failed))


def run_all(work: dict[str, Callable[[], Timings]], shape: str) -> list[str]:
    """Run and save one benchmark after another; returns the names of those that failed."""
    failed = []
    for name, run in work.items():
        try:
            save({name: run()}, shape)
        except subprocess.CalledProcessError as error:
            print(f"{name} failed: {error}\n{error.stderr}", file=sys.stderr)
            failed.append(name)
    return failed


def save(results: dict[str, Timings], shape: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    for name, timings in results.items():
        medians = {method: median_seconds(taken) for method, taken in timings.items() if taken}
        content = {"benchmark": name, "shape": shape, **machine, "median_seconds": medians,
                   "runs": {method: [asdict(timing) for timing in taken] for method, taken in timings.items()}}  # fmt: skip
        path = RESULTS / f"{name}-{shape}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
