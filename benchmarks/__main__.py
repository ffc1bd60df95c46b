"""Run the benchmarks: `python -m benchmarks [NAME …] [--shape 150m|1b] [--repeats N] [--whole] [--groups NAMES] [--dtype D]`.

Without names, all of them: first those with targets for two cores, at the shapes of those targets, then the others at 150M. Every
figure with a target is printed again at the end, beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict

import torch

from benchmarks import against, inside, profile, reports, store
from benchmarks.checkpoint import CACHE, RESULTS, SHAPES, make_checkpoint
from benchmarks.claims import Claim, print_claims
from benchmarks.interleave import load_of, median_seconds
from benchmarks.reports import Found

BOTH = ("150m", "1b")
WORKS: dict[str, tuple[str, ...]] = {
    "parameters": ("1b",), "collect": BOTH, "overhead": BOTH, "small": ("",), "network": ("150m",), "trainer": ("",),
    "startup": ("",), "workers": ("",), "weights": ("150m",), "memory": ("",), "feed": ("150m",), "store": ("",),
    "inside": ("150m",),
}  # fmt: skip
"""The shapes at which each benchmark runs where no names are given; "" where a benchmark has a shape of its own."""


def run(name: str, shape: str, given: argparse.Namespace) -> Found:
    """Run one benchmark."""
    repeats = given.repeats
    if shape:
        return run_at(name, shape, given)
    if name == "memory":
        return reports.run_memory(whole=given.whole)
    if name == "workers":
        return reports.run_workers()
    if name == "store":
        store.report(500, repeats)
        print(load_of({}))
        return Found({})
    works = {"small": reports.run_small, "startup": reports.run_startup, "trainer": reports.run_trainer}
    return works[name](repeats)


def run_at(name: str, shape: str, given: argparse.Namespace) -> Found:
    """Run one benchmark that reads a checkpoint of a shape."""
    folder = make_checkpoint(shape, CACHE)
    if name == "inside":
        return reports.run_inside(
            folder, shape, given.repeats, chosen=given.groups, dtype=given.dtype, sequences=given.sequences
        )
    works = {
        "parameters": reports.run_parameters, "collect": reports.run_collect, "overhead": reports.run_overhead,
        "network": reports.run_network, "weights": reports.run_weights, "feed": reports.run_feed,
    }  # fmt: skip
    return works[name](folder, shape, given.repeats)


def main() -> None:
    if sys.argv[1:2] == ["against"]:
        against.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["profile"]:
        profile.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*WORKS, []], metavar="NAME", help=f"of {', '.join(WORKS)}; default: all"
    )
    parser.add_argument("--shape", choices=list(SHAPES), help="default: those of the targets, or 150m with names")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="memory with all 64 layers of a 32B model: 64 GB, minutes")
    parser.add_argument("--groups", default="", help="of inside: groups with commas between them; default: all")
    parser.add_argument("--dtype", choices=list(inside.DTYPES), default="float32", help="of inside")
    parser.add_argument("--sequences", type=int, default=0, help="of inside: sequences of 512 tokens")
    given = parser.parse_args()
    shapes = (given.shape,) if given.shape else ("150m",) if given.names else None
    work = [
        (name, shape)
        for name in given.names or WORKS
        for shape in ((shapes if WORKS[name][0] else None) or WORKS[name])
    ]
    if failed := run_all(work, given):
        raise SystemExit("failed: " + ", ".join(failed))


def run_all(work: list[tuple[str, str]], given: argparse.Namespace) -> list[str]:
    """Run and save benchmarks, and print all claims, even if interrupted; returns the names of those that failed."""
    failed, claims, started = [], list[Claim](), time.monotonic()
    try:
        for name, shape in work:
            try:
                found = run(name, shape, given)
            except subprocess.CalledProcessError as error:
                print(f"{name} failed: {error}\n{error.stderr}", file=sys.stderr)
                failed.append(name)
                continue
            if found.timings:
                save(name, shape, found)
            claims += found.claims
            print(f"{name} {shape} ended after {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    finally:
        if claims:
            print_claims(claims)
    return failed


def save(name: str, shape: str, found: Found) -> None:
    """Write the timings and the claims of a benchmark as JSON."""
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": name, "shape": shape, "machine": platform.machine(), "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "median_seconds": {method: median_seconds(taken) for method, taken in found.timings.items() if taken},
        "claims": [asdict(claim) for claim in found.claims],
        "runs": {method: [asdict(timing) for timing in taken] for method, taken in found.timings.items()},
    }  # fmt: skip
    path = RESULTS / f"{'-'.join(each for each in (name, shape) if each)}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
