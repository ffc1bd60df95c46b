"""One side of `python -m benchmarks against`: time a collection with whichever olmo_dynamics is on PYTHONPATH.

It uses names alone that every version of the package has. After a warm-up on a small checkpoint it prints one JSON line: the
package's folder, CPU seconds (user and system, all threads), wall seconds, and a number to compare between the sides.

    $ PYTHONPATH=CHECKOUT python -P against_child.py '{"folder": …, "small": …, "out": …, "record": ["loss"], …}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import olmo_dynamics as od


def collect(work: dict[str, Any], folder: str, out: Path) -> Any:
    """The store of one collection."""
    options = {"tokens": work["tokens"], "batch": work["batch"]} if work["tokens"] else {}
    return od.collect(folder, out=out, record=work["record"], **options)


def main(work: dict[str, Any]) -> None:
    out = Path(work["out"])
    collect(work, work["small"], out / "small.zarr")
    wall, cpu = time.perf_counter(), time.process_time()
    stores = [collect(work, work["folder"], out / f"{number}.zarr") for number in range(work["times"])]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    group, column = work["result"]
    result = float(stores[0].table(group)[column].sum())
    package = str(Path(od.__file__).resolve().parent)
    print(json.dumps({"package": package, "cpu": cpu, "wall": wall, "result": result}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
