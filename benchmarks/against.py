"""This checkout beside another one of the same package: CPU and wall time of the same collections, interleaved.

    $ python -m benchmarks against --checkout ../before --repeats 9
    $ python -m benchmarks against --checkout ../before --shape tiny parameters

Each collection runs in a process of its own that imports one of the two checkouts, in pairs whose order alternates. Printed is
the ratio of the medians, this checkout's over the other's, with a 95 % interval from bootstrapping the pairs. A slowdown counts
as proven where the interval's lower end is above the target. `collect` also compares every recorded number.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from benchmarks.checkpoint import CACHE, RESULTS, SHAPES, make_checkpoint
from benchmarks.forward_peers import LENGTH, token_file
from benchmarks.interleave import show_progress

HERE = Path(__file__).parent
TARGET = 1.03  # the interval's lower end must stay below
AGREEMENT = 2e-5  # relative, of float32 sums
RESAMPLES = 10_000


@dataclass(frozen=True)
class Work:
    """A collection to time: the groups it records, and a column whose sum both sides must agree on."""

    title: str
    record: tuple[str, ...]
    result: tuple[str, str]
    times: int = 1  # collections timed together, where one is short
    probe: bool = True


LOSS = ("loss", "cross_entropy")
WORKS = {
    "parameters": [Work("parameter statistics", ("parameters",), ("parameters", "l2_norm"), times=5, probe=False)],
    "collect": [Work("every default group", (), LOSS)],
    "overhead": [
        Work("loss alone", ("loss",), LOSS),
        Work("loss, activations and outliers", ("loss", "activations", "outliers"), LOSS),
    ],
}


class Sides(NamedTuple):
    """One of each: this checkout's and the other's."""

    this: Path
    other: Path


@dataclass(frozen=True)
class Pair:
    """CPU and wall seconds of one work on both sides, one straight after the other."""

    cpu: tuple[float, float]
    wall: tuple[float, float]


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio_of_medians(pairs: np.ndarray, seed: int = 0) -> Ratio:
    """The ratio of the medians of two columns, its interval from resampling rows with replacement."""
    rows = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    resampled = np.median(pairs[rows], axis=1)
    low, high = np.quantile(resampled[:, 0] / resampled[:, 1], [0.025, 0.975])
    this, other = np.median(pairs, axis=0)
    return Ratio(float(this / other), float(low), float(high))


def run_child(checkout: Path, work: Work, folder: Path, out: Path) -> dict[str, float]:
    """Time one work in a process that imports the package from `checkout`, writes nothing there, and its stores to `out`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "PYTHONPYCACHEPREFIX": str(CACHE / "against" / "bytecode"),
        "OLMO_DYNAMICS_CACHE": str(CACHE / "against" / "cache"),
    }
    tokens = token_file(folder)
    given = {
        "folder": str(folder.parent), "small": str(make_checkpoint("tiny", CACHE).parent), "out": str(out),
        "tokens": str(tokens) if work.probe else None, "batch": "{}x{}".format(*np.load(tokens).shape),
        "record": work.record, "result": work.result, "times": work.times,
    }  # fmt: skip
    command = [sys.executable, "-P", str(HERE / "against_child.py"), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=out, check=False)
    if done.returncode:
        raise SystemExit(f"{work.title} failed in {checkout}:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if answer["package"] != str(checkout / "olmo_dynamics"):
        raise SystemExit(f"{checkout} must be a checkout of this package; {answer['package']} was imported instead")
    return answer


def compare(work: Work, sides: Sides, folder: Path, repeats: int) -> list[Pair]:
    """Time both sides `repeats` times, alternating which is first, after one uncounted run of each."""
    pairs = []
    for number in range(-1, repeats):
        show_progress(f"{work.title}: {number + 1}/{repeats}")
        timed = {}
        for side in (0, 1) if number % 2 else (1, 0):
            with tempfile.TemporaryDirectory(dir=CACHE) as out:
                timed[side] = run_child(sides[side], work, folder, Path(out))
        this, other = timed[0], timed[1]
        if abs(this["result"] - other["result"]) > AGREEMENT * abs(other["result"]):
            raise SystemExit(f"{work.title}: the sides must agree; got {this['result']} and {other['result']}")
        if number >= 0:
            pairs.append(Pair((this["cpu"], other["cpu"]), (this["wall"], other["wall"])))
    print(file=sys.stderr)
    return pairs


def print_work(work: Work, pairs: list[Pair]) -> Ratio:
    """One line for each kind of time, and whether the target is met."""
    cpu = ratio_of_medians(np.array([pair.cpu for pair in pairs]))
    wall = ratio_of_medians(np.array([pair.wall for pair in pairs]))
    medians = [statistics.median(pair.cpu[side] for pair in pairs) / work.times for side in range(2)]
    verdict = "met" if cpu.low < TARGET else "NOT MET"
    print(f"{work.title:<32} CPU {medians[0]:8.3f} s {medians[1]:8.3f} s   × {cpu}   wall × {wall}")
    print(f"{'':<32} lower end of the CPU interval below + {TARGET - 1:.0%}: {verdict}")
    return cpu


def compare_numbers(sides: Sides, folder: Path) -> dict[str, float]:
    """Largest relative difference of each array of a collection of every default group; 0 where all bits are equal."""
    [work] = WORKS["collect"]
    stores = []
    with tempfile.TemporaryDirectory(dir=CACHE) as place:
        for name, checkout in zip(Sides._fields, sides, strict=True):
            out = Path(place) / name
            out.mkdir()
            run_child(checkout, work, folder, out)
            stores.append(zarr.open_group(out / "0.zarr", mode="r"))
        found = {}
        for name, group in stores[1].groups():
            for key, array in group.arrays():
                if name != "revisions":  # times of day are among them
                    found[f"{name}/{key}"] = difference(stores[0][f"{name}/{key}"][...], array[...])
    return found


def difference(this: np.ndarray, other: np.ndarray) -> float:
    """The largest relative difference of two arrays; infinite where shapes, texts or missing numbers differ."""
    if np.array_equal(this, other, equal_nan=other.dtype.kind == "f"):
        return 0.0
    if this.shape != other.shape or other.dtype.kind != "f" or not np.array_equal(np.isnan(this), np.isnan(other)):
        return float("inf")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.nanmax(np.abs(this - other) / np.abs(other)))


def print_numbers(differences: dict[str, float]) -> None:
    """The arrays that differ, largest difference first."""
    differing = {key: value for key, value in differences.items() if value}
    print(f"{'numbers':<32} {len(differences) - len(differing)} of {len(differences)} arrays equal in every bit")
    for key, value in sorted(differing.items(), key=lambda each: -each[1]):
        print(f"{'':<32} {key}: {value:.1e} relative")


def print_overhead(results: dict[str, list[Pair]]) -> None:
    """The share of CPU time that recording adds, on each side."""
    alone, recorded = (results[work.title] for work in WORKS["overhead"])
    shares = [
        statistics.median(more.cpu[side] for more in recorded) / statistics.median(less.cpu[side] for less in alone) - 1
        for side in range(2)
    ]
    print(f"{'recording adds':<32} CPU {shares[0]:8.1%}   {shares[1]:8.1%}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks against", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", choices=[*WORKS, []], metavar="NAME", help=f"of {', '.join(WORKS)}; default: all"
    )
    parser.add_argument(
        "--checkout", type=Path, required=True, metavar="DIR", help="another checkout; nothing is written there"
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--shape", choices=list(SHAPES), default="150m")
    given = parser.parse_args(arguments)
    names, shape = given.names or list(WORKS), given.shape
    sides = Sides(HERE.parent.resolve(), given.checkout.resolve())
    folder = make_checkpoint(shape, CACHE)
    size = f"{shape}, bf16, {SHAPES[shape].sequences} x {LENGTH} tokens"
    print(f"This checkout, then {given.checkout}: {size}, {given.repeats} pairs; CPU time of all threads, medians")
    results = {}
    for work in (each for name in names for each in WORKS[name]):
        results[work.title] = compare(work, sides, folder, given.repeats)
        print_work(work, results[work.title])
    if "overhead" in names:
        print_overhead(results)
    if "collect" in names:
        print_numbers(compare_numbers(sides, folder))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"against-{shape}.json"
    content = {title: [asdict(pair) for pair in pairs] for title, pairs in results.items()}
    path.write_text(
        json.dumps({"benchmark": "against", "shape": shape, "seconds_this_and_other": content}, indent=1) + "\n"
    )
    print(path)
