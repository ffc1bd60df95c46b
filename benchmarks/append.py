"""Append one revision to a store, beside the flushes that its files need.

A store of all groups of a small model (about 170 arrays per revision) is appended to. Beside each append, in turn: a flush of
one small file, which is what the device itself takes, and the same files written, flushed together and renamed with no store
around them. The target is at most 15 ms beyond files × the device's own flush.

    $ python -m benchmarks.append --revisions 60
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.checkpoint import CACHE, RESULTS
from olmo_dynamics import quantities
from olmo_dynamics.files import write_together
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.names import NO_EXPERT, NO_LAYER, Revision
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.store import Axis, Layout

FOLDER = CACHE / "append"
GROUPS = ("parameters", "embeddings", "activations", "outliers", "logits", "loss", "tokens")
TENSORS, LAYERS, FEATURES, TOKENS, SEQUENCES, POSITIONS = 146, 16, 512, 1024, 4, 64
TARGET = 15.0  # ms


def layout() -> Layout:
    names = np.array([f"model.layers.{index // 9}.role{index % 9}.weight" for index in range(TENSORS)])
    along = {"layer": np.arange(TENSORS) // 9, "expert": np.full(TENSORS, NO_EXPERT),
             "role": np.array([f"role{index % 9}" for index in range(TENSORS)])}  # fmt: skip
    sizes = {"rank": quantities.MASSIVE_RANKS, "top": 3, "decile": 10, "sequence": SEQUENCES, "position": POSITIONS,
             "feature": FEATURES, "token": TOKENS}  # fmt: skip
    axes = {name: Axis(name, np.arange(size)) for name, size in sizes.items()} | {
        "tensor": Axis("tensor", names, along),
        "embedding": Axis("embedding", names[:2]),
        "quantile": Axis("quantile", np.array(quantities.QUANTILES)),
        "token_quantile": Axis("token_quantile", np.array(quantities.TOKEN_QUANTILES)),
        "site": Axis("site", np.array(["embedding", "residual_in", "residual_middle", "residual_out"])),
        "layer": Axis("layer", np.arange(NO_LAYER, LAYERS)),
        "input": Axis("input", np.array(["attention_input", "mlp_input"])),
        "threshold": Axis("threshold", np.array(quantities.THRESHOLDS)),
        "rms_threshold": Axis("rms_threshold", np.array(quantities.RMS_THRESHOLDS)),
        "domain": Axis("domain", np.array(["prose", "code"])),
    }
    return Layout(axes, [quantities.GROUPS[name] for name in GROUPS])


def records(shapes: Layout, seed: int) -> list[Record]:
    rng = np.random.default_rng(seed)
    found = []
    for group in shapes.groups:
        for quantity in shapes.quantities(group):
            values = rng.integers(0, 9, shapes.shape(quantity)).astype(quantity.dtype)
            found.append(Record(quantity, values))
    return found


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def flush_of_one(folder: Path) -> None:
    """The device's own: a small file written and flushed."""
    descriptor = os.open(folder / "one", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"x" * 4096)
    os.fsync(descriptor)
    os.close(descriptor)


def measure(count: int) -> dict[str, list[float]]:
    """Milliseconds of each append, of one flush and of the same files without a store; and the files of each append."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    shapes = layout()
    attributes = {"source": "bench", "model_type": "olmo2", "model_config": {}, "compute_dtype": "float32", "probe": {}}
    store = RecordedStore.create(FOLDER / "s.zarr", layout=shapes, attributes=attributes, probe_arrays={})
    revisions = [Revision(f"step{number}", step=number) for number in range(count)]
    store.plan(revisions)
    found: dict[str, list[float]] = {"append": [], "flush of one": [], "files alone": [], "files": [], "bytes": []}
    for number, revision in enumerate(revisions):
        values = records(shapes, number)
        before = stamps(store.path)
        append = milliseconds(lambda: store.append(revision, values, dtype="BF16", weights_sha256="0" * 64))  # noqa: B023
        changed = {path: size for path, (stamp, size) in stamps(store.path).items() if before[path][0] != stamp}
        contents = [(FOLDER / "alone" / str(each), os.urandom(size)) for each, size in enumerate(changed.values())]
        found["append"].append(append)
        found["flush of one"].append(milliseconds(lambda: flush_of_one(FOLDER)))
        found["files alone"].append(milliseconds(lambda: write_together(contents, partial=FOLDER / "partial")))  # noqa: B023
        found["files"].append(len(changed))
        found["bytes"].append(sum(changed.values()))
    shutil.rmtree(FOLDER)
    return found


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """The inode and the size of every file."""
    held = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (each.st_ino, each.st_size) for path, each in held.items()}


def report(revisions: int) -> None:
    """Measure, print and save."""
    found = measure(revisions)
    medians = {name: statistics.median(taken) for name, taken in found.items()}
    own = medians["files"] * medians["flush of one"]
    print(
        f"Appending one of {revisions} revisions: {medians['files']:.0f} files, {medians['bytes'] / 1e6:.2f} MB; medians"
    )
    print(f"append {medians['append']:.1f} ms ({min(found['append']):.1f}-{max(found['append']):.1f})")
    print(f"files x the device's own flush: {medians['files']:.0f} x {medians['flush of one']:.2f} ms = {own:.1f} ms")
    print(f"the same files flushed together, with no store: {medians['files alone']:.1f} ms")
    print(f"append beyond files x flush: {medians['append'] - own:.1f} ms (target {TARGET:.0f} ms)")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "append.json").write_text(json.dumps({"benchmark": "append", "milliseconds": found}, indent=1) + "\n")
    print(RESULTS / "append.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.append", description=__doc__)
    parser.add_argument("--revisions", type=int, default=60)
    report(parser.parse_args().revisions)


if __name__ == "__main__":
    main()
