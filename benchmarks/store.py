"""A store of 500 revisions: append, one series, one revision, a table; this package, simpler formats, and raw files as the limit.

Every method keeps the same numbers of each revision: 200 tensors of the group `parameters`, and `activations` at four sites of
16 layers by 2048 features. The others store them as the obvious code would: zarr's own writer with one chunk per revision, one
parquet file per revision, one raw file. Each operation is timed over all methods in turn, in one process, with warm caches.

    $ python -m benchmarks.store --revisions 500
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import xarray
import zarr

from benchmarks.checkpoint import CACHE, RESULTS
from olmo_dynamics import quantities
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.names import NO_LAYER, Revision
from olmo_dynamics.quantities import QUANTILES, TOKEN_QUANTILES
from olmo_dynamics.quantities.declaration import Quantity, Record
from olmo_dynamics.store import Axis, Layout

FOLDER = CACHE / "store"
TENSORS, LAYERS, FEATURES = 200, 16, 2048
SITES = ("embedding", "residual_in", "residual_middle", "residual_out")
SERIES = {"site": "residual_out", "layer": 7, "feature": 99}
PLACE = (3, 8, 99)  # of `SERIES` in a row of feature_rms
THIS_PACKAGE = "olmo_dynamics"

Row = dict[str, np.ndarray]


def layout() -> Layout:
    names = np.array([f"model.layers.{index // 13}.role{index % 13}.weight" for index in range(TENSORS)])
    along = {"layer": np.arange(TENSORS) // 13, "role": np.array([f"role{index % 13}" for index in range(TENSORS)])}
    axes = [
        Axis("tensor", names, along),
        Axis("quantile", np.array(QUANTILES)),
        Axis("feature", np.arange(FEATURES)),
        Axis("site", np.array(SITES)),
        Axis("layer", np.arange(NO_LAYER, LAYERS)),
        Axis("token_quantile", np.array(TOKEN_QUANTILES)),
    ]
    return Layout(
        {each.name: each for each in axes}, (quantities.GROUPS["parameters"], quantities.GROUPS["activations"])
    )


LAYOUT = layout()
QUANTITIES: dict[str, Quantity] = {
    each.key: each for group in LAYOUT.groups for each in quantities.of_group(group)
}  # fmt: skip


def row_of(seed: int) -> Row:
    """One revision's numbers."""
    rng = np.random.default_rng(seed)
    row = {}
    for key, quantity in QUANTITIES.items():
        shape = LAYOUT.shape(quantity)
        drawn = np.ones(shape) if key.endswith("/status") else rng.integers(0, 99, shape) if "int" in quantity.dtype else (
            rng.standard_normal(shape, dtype=np.float32))  # fmt: skip
        row[key] = drawn.astype(quantity.dtype)
    return row


class Method(Protocol):
    """A way of storing revisions."""

    def append(self, number: int, row: Row) -> None: ...
    def series(self) -> np.ndarray: ...
    def revision(self, number: int) -> float: ...
    def table(self) -> int: ...


class OlmoDynamics:
    def __init__(self, folder: Path, count: int) -> None:
        attributes = {
            "source": "bench",
            "model_type": "olmo2",
            "model_config": {},
            "compute_dtype": "float32",
            "probe": {},
        }
        self.path = folder / "recorded.zarr"
        self.store = RecordedStore.create(self.path, layout=LAYOUT, attributes=attributes, probe_arrays={})
        self.revisions = [Revision(f"step{number}", stage=1, step=number, tokens=number) for number in range(count)]
        self.store.plan(self.revisions)

    def append(self, number: int, row: Row) -> None:
        records = [Record(QUANTITIES[key], values) for key, values in row.items()]
        self.store.append(self.revisions[number], records, dtype="BF16", weights_sha256=f"{number:064d}")

    def series(self) -> np.ndarray:
        return self.store.array("activations", "feature_rms", at=SERIES)

    def xarray_series(self) -> np.ndarray:
        return np.asarray(xarray.open_zarr(self.path, group="activations").feature_rms[:, *PLACE])

    def revision(self, number: int) -> float:
        name = self.revisions[number].name
        return sum(float(values.flat[0]) for group in LAYOUT.groups for values in self.store.row(group, name).values())

    def table(self) -> int:
        return len(open_store(self.path).table("parameters"))


class PlainZarr:
    """zarr's own writer, one chunk per revision in each array."""

    def __init__(self, folder: Path, count: int) -> None:
        group = zarr.create_group(folder / "plain.zarr")
        self.arrays = {
            key: group.create_array(
                key, shape=(count, *LAYOUT.shape(each)), chunks=(1, *LAYOUT.shape(each)), dtype=each.dtype
            )
            for key, each in QUANTITIES.items()
        }

    def append(self, number: int, row: Row) -> None:
        for key, values in row.items():
            self.arrays[key][number] = values

    def series(self) -> np.ndarray:
        return np.asarray(self.arrays["activations/feature_rms"][:, *PLACE])

    def revision(self, number: int) -> float:
        return sum(float(np.asarray(array[number]).flat[0]) for array in self.arrays.values())

    def table(self) -> int:
        columns = {key: np.asarray(array[...]).ravel() for key, array in self.arrays.items() if is_column(key)}
        return len(pl.DataFrame(columns))


class Parquet:
    """One file per revision, one column per array."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder / "parquet"
        self.folder.mkdir()

    def append(self, number: int, row: Row) -> None:
        frame = pl.DataFrame({key: pl.Series([values.ravel()]) for key, values in row.items()})
        frame.write_parquet(self.folder / f"{number:05d}.parquet")

    def series(self) -> np.ndarray:
        flat = int(np.ravel_multi_index(PLACE, LAYOUT.shape(QUANTITIES["activations/feature_rms"])))
        column = pl.col("activations/feature_rms").arr.get(flat)
        return pl.scan_parquet(self.folder / "*.parquet").select(column).collect().to_series().to_numpy()

    def revision(self, number: int) -> float:
        frame = pl.read_parquet(self.folder / f"{number:05d}.parquet")
        return sum(float(frame[key][0][0]) for key in QUANTITIES)

    def table(self) -> int:
        wanted = [key for key in QUANTITIES if is_column(key)]
        return len(pl.scan_parquet(self.folder / "*.parquet").select(wanted).explode(wanted).collect())


class Raw:
    """The limit: every revision's bytes one after another in one file, without names or labels."""

    def __init__(self, folder: Path, count: int) -> None:
        self.file = (folder / "raw").open("w+b", buffering=0)
        self.offsets, self.size = {}, 0
        for key, each in QUANTITIES.items():
            self.offsets[key] = self.size
            self.size += int(np.prod(LAYOUT.shape(each))) * np.dtype(each.dtype).itemsize
        self.count = count

    def append(self, number: int, row: Row) -> None:
        self.file.seek(number * self.size)
        self.file.write(b"".join(values.tobytes() for values in row.values()))

    def series(self) -> np.ndarray:
        flat = int(np.ravel_multi_index(PLACE, LAYOUT.shape(QUANTITIES["activations/feature_rms"])))
        place = self.offsets["activations/feature_rms"] + 4 * flat
        found = []
        for number in range(self.count):
            self.file.seek(number * self.size + place)
            found.append(self.file.read(4))
        return np.frombuffer(b"".join(found), dtype=np.float32)

    def revision(self, number: int) -> float:
        self.file.seek(number * self.size)
        data = self.file.read(self.size)
        return sum(
            float(np.frombuffer(data, dtype=each.dtype, count=1, offset=self.offsets[key])[0])
            for key, each in QUANTITIES.items()
        )

    def table(self) -> int:
        return 0


def is_column(key: str) -> bool:
    """True if a quantity is a column of the table `parameters`."""
    return QUANTITIES[key].group == "parameters" and QUANTITIES[key].axes == ("tensor",)


METHODS: dict[str, Callable[[Path, int], Method]] = {
    THIS_PACKAGE: OlmoDynamics,
    "zarr, one chunk per revision": PlainZarr,
    "one parquet file per revision": Parquet,
    "raw file": Raw,
}


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def measure(count: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by operation and method, the methods interleaved."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    methods = {name: make(FOLDER, count) for name, make in METHODS.items()}
    found: dict[str, dict[str, list[float]]] = {}

    def note(operation: str, name: str, work: Callable[[], object]) -> None:
        found.setdefault(operation, {}).setdefault(name, []).append(timed(work))

    rows = [row_of(seed) for seed in range(8)]
    for number in range(count):
        for name, method in methods.items():
            note("append", name, lambda method=method, number=number: method.append(number, rows[number % 8]))
    this = methods[THIS_PACKAGE]
    assert isinstance(this, OlmoDynamics)
    for _ in range(repeats):
        for name, method in methods.items():
            note("series before compaction", name, method.series)
    note("compaction", THIS_PACKAGE, this.store.compact)
    expected = np.array([rows[number % 8]["activations/feature_rms"][PLACE] for number in range(count)])
    for turn in range(repeats):
        for name, method in methods.items():
            note("one series", name, method.series)
            note("one revision", name, lambda method=method, turn=turn: method.revision(turn * 7 % count))
            if name != "raw file":
                note("table of parameters", name, method.table)
        note("one series", "olmo_dynamics, opened with xarray", this.xarray_series)
    for method in methods.values():
        np.testing.assert_array_equal(method.series(), expected)
    assert len({round(method.revision(3), 3) for method in methods.values()}) == 1
    return found


def report(revisions: int, repeats: int) -> None:
    """Measure, print and save."""
    found = measure(revisions, repeats)
    megabytes = sum(values.nbytes for values in row_of(0).values()) / 1e6
    print(f"Store of {revisions} revisions, {megabytes:.1f} MB each in {len(QUANTITIES)} arrays; milliseconds, medians")
    for operation, methods in found.items():
        for name, taken in methods.items():
            print(f"{operation:<26} {name:<34} {statistics.median(taken):>9.2f}  ({min(taken):.2f}–{max(taken):.2f})")
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": "store",
        "revisions": revisions,
        "megabytes_per_revision": megabytes,
        "milliseconds": found,
    }
    (RESULTS / "store.json").write_text(json.dumps(content, indent=1) + "\n")
    print(RESULTS / "store.json")
    shutil.rmtree(FOLDER)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--revisions", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    report(given.revisions, given.repeats)


if __name__ == "__main__":
    main()
