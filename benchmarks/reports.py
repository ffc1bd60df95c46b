"""Run one benchmark, print its table, and return its timings and the claims that rest on them."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import NamedTuple

from benchmarks import (
    collect,
    feed,
    inside,
    memory,
    network,
    overhead,
    parameters,
    small,
    small_profile,
    startup,
    trainer,
    weights,
    workers,
)
from benchmarks.checkpoint import CACHE, SHAPES
from benchmarks.claims import Claim
from benchmarks.forward_peers import LENGTH
from benchmarks.interleave import Timing, interleave, median_cpu, median_seconds, peak_of, print_table, result_of

Timings = dict[str, list[Timing]]


class Found(NamedTuple):
    """The timings of a benchmark, by method, and its claims."""

    timings: Timings
    claims: tuple[Claim, ...] = ()


def tokens_of(shape: str) -> str:
    """The probe's size; half as many sequences at 1b, to save time there."""
    return f"{SHAPES[shape].sequences} x {LENGTH} tokens"


def run_parameters(folder: Path, shape: str, repeats: int) -> Found:
    this, _, slow, reading = parameters.METHODS
    parameters.in_float32(folder)
    methods = (this, parameters.FLOAT32, *parameters.METHODS[1:])
    timings = interleave(
        "benchmarks.parameters", methods, arguments=[str(folder)], repeats=repeats, once=[slow] if shape == "1b" else []
    )
    print_table(f"Parameter statistics, {shape}, bf16 but where stated, warm page cache", timings, reference=this)
    if shape == "1b":
        print(f"{slow} takes a minute or more per run at 1b: it ran once")
    error = abs(result_of(timings[this]) / result_of(timings[slow]) - 1)
    print(f"total L2 against float64: {error:.1e} relative")
    narrow, wide = (
        1e9 * median_cpu(timings[each]) / parameters.elements(folder) for each in (this, parameters.FLOAT32)
    )
    print(f"CPU time per element: bf16 {narrow:.2f} ns, float32 {wide:.2f} ns")
    share = median_seconds(timings[reading]) / median_seconds(timings[this])
    claims = (
        Claim(f"parameters, {shape}, bf16: share of the pread rate", share, 0.6, "%", at_least=True),
        Claim(f"parameters, {shape}, float32: CPU time per element, x bf16", wide / narrow, 2),
    )
    return Found(timings, claims)


def run_weights(folder: Path, shape: str, repeats: int) -> Found:
    weights.later_revision(folder)
    timings = interleave("benchmarks.weights", weights.METHODS, arguments=[str(folder)], repeats=min(repeats, 3))
    alone, sketched, spectra = weights.GROUPS
    print_table(f"Sketches and spectra of one local revision, {shape}, bf16, warm page cache", timings, reference=alone)
    cpu = {method: median_cpu(taken) for method, taken in timings.items()}
    print(
        f"spectra add {cpu[spectra] - cpu[alone]:.1f} s of CPU time (target 25 % of that of `collect`)   {weights.PEER}: "
        f"{cpu[weights.PEER] / (2 * cpu[sketched]):.1f} x the CPU time of both revisions' sketches"
    )
    added = cpu[sketched] / cpu[alone] - 1
    return Found(timings, (Claim(f"weights, {shape}: CPU time that sketches add to parameters", added, 0.6, "%"),))


def run_collect(folder: Path, shape: str, repeats: int) -> Found:
    timings = interleave("benchmarks.collect", collect.METHODS, arguments=[str(folder)], repeats=repeats)
    this, other, limit = collect.METHODS
    print_table(f"Collecting one local revision, {shape}, bf16, {tokens_of(shape)}", timings, reference=this)
    seconds = {method: median_seconds(taken) for method, taken in timings.items()}
    print(f"{other}: {seconds[limit] / seconds[other]:.1%} of the rate of the matrix products alone")
    print(f"loss: {this} {result_of(timings[this]):.4f}, {other} {result_of(timings[other]):.4f}")
    share, target = seconds[limit] / seconds[this], 0.83 if shape == "1b" else 0.78
    held = peak_of(timings[this]) / peak_of(timings[other])
    claims = (
        Claim(f"collect, {shape}: share of the products' rate", share, target, "%", at_least=True),
        Claim(f"collect, {shape}: memory, x that of {other}", held, 0.15),
    )
    return Found(timings, claims)


def run_network(folder: Path, shape: str, repeats: int) -> Found:
    timings = interleave("benchmarks.network", network.METHODS, arguments=[str(folder)], repeats=repeats)
    title = f"Eight revisions in a row over HTTP, {shape}, bf16, {network.SEQUENCES} x {LENGTH} tokens"
    print_table(title, timings, reference="folder")
    computing, claims = median_seconds(timings["folder"]), list[Claim]()
    for method, rate in network.RATES.items():
        turns = [over_the_limit(each, rate, computing) for each in timings[method]] or [(math.nan, math.nan)]
        over, busy = (statistics.median(each) for each in zip(*turns, strict=True))
        claims.append(Claim(f"network, {method}: time over the limit", over, 1.05))
        if all(each.result / rate > computing for each in timings[method]):
            claims.append(Claim(f"network, {method}: the link is busy", busy, 0.95, "%", at_least=True))
        else:
            print(f"{method}: computing is the limit; the link is busy {busy:.0%} of the time")
    for method in network.RATES:
        serving = [each.details["hub_cpu_seconds"] for each in timings[method]] or [math.nan]
        print(f"{method}: the hub took {statistics.median(serving):.2f} s of CPU time of the same cores")
    claims.append(Claim("network: peak anonymous memory", most_of(timings) / 1e6, 800, "MB"))
    return Found(timings, tuple(claims))


def most_of(timings: Timings) -> float:
    """The most memory of any method, in bytes."""
    return max(peak_of(taken) for taken in timings.values() if taken)


def over_the_limit(timing: Timing, rate: float, computing: float) -> tuple[float, float]:
    """The time over the limit, and the share of the time between the first byte and the last in which the link was busy."""
    told, moving = timing.details, timing.result / rate
    after = timing.seconds - told["last_byte"] if moving > computing else 0.0
    limit = max(moving, computing) + told["first_block"] + after
    return timing.seconds / limit, moving / (told["last_byte"] - told["first_byte"])


def run_memory(*, whole: bool) -> Found:
    methods = (*memory.METHODS, *([memory.WHOLE] if whole else []))
    timings = interleave("benchmarks.memory", methods, arguments=[], repeats=1)
    title = "Memory: layers of a 32B model over HTTP, 1 x 64 tokens (target 8 GB)"
    print_table(title, timings, reference=methods[0])
    return Found(
        timings, (Claim("memory, layers of a 32B model: peak anonymous memory", most_of(timings) / 1e9, 8, "GB"),)
    )


def run_overhead(folder: Path, shape: str, repeats: int) -> Found:
    timings = interleave("benchmarks.overhead", overhead.METHODS, arguments=[str(folder)], repeats=repeats)
    bare, recorded = overhead.METHODS
    print_table(f"Recording beside the forward pass, {shape}, bf16, {tokens_of(shape)}", timings, reference=bare)
    clocks = {"time": median_seconds, "CPU time": median_cpu}
    added = {clock: median(timings[recorded]) / median(timings[bare]) - 1 for clock, median in clocks.items()}
    target = 0.03 if shape == "1b" else 0.08
    claims = (
        Claim(f"overhead, {shape}: {clock} that recording adds", each, target, "%") for clock, each in added.items()
    )
    return Found(timings, tuple(claims))


def run_feed(folder: Path, shape: str, repeats: int) -> Found:
    weights.later_revision(folder)
    timings = interleave("benchmarks.feed", feed.METHODS, arguments=[str(folder)], repeats=min(repeats, 3))
    fed, bare = feed.METHODS
    print_table(f"Activation feed of two local revisions, {shape}, bf16, {tokens_of(shape)}", timings, reference=bare)
    cpu = {method: median_cpu(taken) for method, taken in timings.items()}
    rate = cpu[bare] / cpu[fed]
    return Found(timings, (Claim(f"feed, {shape}: rate by CPU time, of the bare pass", rate, 0.8, at_least=True),))


def run_inside(
    folder: Path, shape: str, repeats: int, *, chosen: str = "", dtype: str = "float32", sequences: int = 0
) -> Found:
    named = [each for each in chosen.split(",") if each]
    methods = (inside.BARE, *named, *inside.PEERS) if named else inside.methods()
    arguments = [str(folder), dtype, str(sequences)]
    timings = interleave("benchmarks.inside", methods, arguments=arguments, repeats=repeats)
    size = f"{sequences or SHAPES[shape].sequences} x {LENGTH} tokens"
    print_table(f"Groups beside the pass, {shape}, {dtype}, {size}", timings, reference=inside.BARE)
    for clock, median in (("seconds", median_seconds), ("CPU seconds", median_cpu)):
        medians = {name: median(taken) for name, taken in timings.items()}
        said = (f"{name} {seconds / medians[inside.BARE]:.2f}" for name, seconds in medians.items())
        print(f"{clock} over the {inside.BARE}: {', '.join(said)}")
    used = {name: median_cpu(taken) / median_cpu(timings[inside.BARE]) for name, taken in timings.items()}
    claims = (
        Claim(f"inside, {shape}: CPU time of {name}, x the {inside.BARE}", used[name], limit)
        for name, limit in inside.LIMITS.items()
        if name in used
    )
    return Found(timings, tuple(claims))


def run_trainer(repeats: int) -> Found:
    timings, claims = Timings(), list[Claim]()
    for title, taken in trainer.measure(repeats).items():
        print_table(f"{title.capitalize()}, bf16", taken, reference=next(iter(taken)))
        timings |= {f"{title}: {method}": each for method, each in taken.items()}
        if trainer.TRAINER in taken:
            print(trainer.against_trainer(taken))
            batch = next(each for each in trainer.BATCHES if each in title)
            faster = median_seconds(taken[trainer.TRAINER]) / median_seconds(taken[next(iter(trainer.THIS_PACKAGE))])
            what = f"trainer, {batch}: updates per second, x {trainer.TRAINER}"
            claims.append(Claim(what, faster, trainer.TARGETS[batch], at_least=True))
    return Found(timings, tuple(claims))


def run_small(repeats: int) -> Found:
    run = small.make_run(CACHE)
    timings = interleave("benchmarks.small", small.METHODS, arguments=[str(run)], repeats=repeats)
    windows, length = small.WINDOWS
    title = f"A revision of a small model, 1.2 M, float32, {windows} x {length} tokens; memory of the whole process"
    alone, everything = small.METHODS
    print_table(title, timings, reference=alone)
    small_profile.report(run)
    used = {method: median_cpu(taken) for method, taken in timings.items()}
    claims = (
        Claim("small: CPU time per revision of the loss alone", used[alone], 0.5, "s"),
        Claim("small: CPU time of every default group, x that", used[everything] / used[alone], 1.3),
        Claim("small: peak memory of the process", most_of(timings) / 1e6, 700, "MB"),
    )
    return Found(timings, claims)


def run_startup(repeats: int) -> Found:
    arguments = [str(startup.make_store(CACHE))]
    timings = interleave("benchmarks.startup", startup.METHODS, arguments=arguments, repeats=repeats)
    timings |= interleave("benchmarks.startup", [startup.DEMO], arguments=arguments, repeats=min(repeats, 3))
    print_table("Start: processes, with the CPU time of their own", timings, reference=startup.METHODS[-1])
    claims = (
        Claim(f"startup: {method}", median_seconds(timings[method]), limit, "s")
        for method, limit in startup.LIMITS.items()
    )
    return Found(timings, tuple(claims))


def run_workers() -> Found:
    timings = workers.report()
    one, *others = (timings[f"{count} workers"][0].seconds for count in workers.WORKERS)
    claims = [
        Claim(f"workers: speed of {count}, x {count} times that of one", one / taken / count, 0.9, at_least=True)
        for count, taken in zip(workers.WORKERS[1:], others, strict=True)
    ]
    way = median_seconds(timings["scheduling"]) * 1e3
    return Found(timings, (*claims, Claim("workers: scheduling of a revision", way, 20, "ms")))
