"""A small model's revisions in a row: 1.2 M parameters in float32, 79 windows of 128 tokens, from a local folder.

Small models pay for calls, merges and files more than for products. The time is that of a revision after the first, which loads
compiled kernels and makes the store; the memory is the whole process's, imports included.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.interleave import Timing

GROUPS: dict[str, tuple[str, ...] | None] = {"loss alone": ("loss",), "every default group": None}
METHODS = tuple(GROUPS)
WINDOWS, REVISIONS = (79, 128), 9


def make_run(cache: Path) -> Path:
    """A folder of revisions with the shape of the demo's model and random weights, and the probe `tokens.npy` beside it."""
    from safetensors.torch import save_file

    from olmo_dynamics.experiments.demo import STANDARD
    from olmo_dynamics.model import build_model, init_weights, to_config_json

    config, run = STANDARD.config, cache / "small" / "run"
    for number in range(REVISIONS):
        folder = run / f"step{number}"
        if (folder / "config.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        model = build_model(config, device="cpu")
        init_weights(model, seed=number)
        save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(to_config_json(config, dtype="float32")))
    np.save(run.parent / "tokens.npy", np.random.default_rng(0).integers(0, config.vocab_size, WINDOWS))
    return run


def measure(
    run: Path, groups: tuple[str, ...] | None, place: Path, *, begun: Callable[[], None] = lambda: None
) -> Timing:
    """Collect all revisions; the time of one is the mean of those after the first, when `begun` is called."""
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    ended: list[tuple[float, float]] = []

    class Clock(Progress):
        def finish(self, name: str) -> None:
            if not ended:
                begun()
            ended.append((time.perf_counter(), time.process_time()))

    options = {} if groups is None else {"record": groups}
    store = collect(
        run, out=place / "s.zarr", tokens=run.parent / "tokens.npy", batch=WINDOWS, progress=Clock(), **options
    )
    (first, first_cpu), (last, last_cpu) = ended[0], ended[-1]
    later = len(ended) - 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    loss = float(store.arrays("loss")["cross_entropy"][-1, 0])
    return Timing((last - first) / later, peak_bytes=peak, result=loss, cpu_seconds=(last_cpu - first_cpu) / later)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        print(json.dumps(asdict(measure(Path(sys.argv[2]), GROUPS[sys.argv[1]], Path(empty)))))
