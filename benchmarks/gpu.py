"""The same work on a GPU: agreement with the CPU, collections beside transformers, recording, and updates of a 1B model.

`python -m benchmarks.gpu [agreement collect overhead trainer] [--shapes 1b 7b] [--repeats 5]` needs a CUDA device. Methods are
interleaved in one process after a warm-up of each; the page cache is warm. Matrix products of 8192 × 8192 give the peak.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.checkpoint import CACHE, make_checkpoint
from benchmarks.forward_peers import transformers_hooks
from benchmarks.overhead import GROUPS, forward

PARTS = ("agreement", "collect", "overhead", "trainer")
DEVICE = "cuda"


def measured_peak() -> float:
    """The rate of bf16 products of 8192 × 8192, in floating-point operations per second: the median of ten."""
    left, right = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / statistics.median(seconds_of(lambda: left @ right) for _ in range(13))


def seconds_of(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def compared(title: str, methods: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Print each method's median seconds, spread and peak GPU memory; `repeats` turns after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    peak = dict.fromkeys(methods, 0)
    for turn in range(repeats + 1):
        for name, work in methods.items():
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            taken = seconds_of(work)
            peak[name] = max(peak[name], torch.cuda.max_memory_allocated())
            if turn:
                seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(f"\n{title} ({torch.cuda.get_device_name()}, torch {torch.__version__}, medians of {repeats})")
    for name, taken in seconds.items():
        ratio = medians[name] / next(iter(medians.values()))
        print(
            f"{name:<40} {medians[name]:>8.3f} s  {min(taken):.3f}–{max(taken):.3f}  ratio {ratio:.2f}  {peak[name] / 1e9:.2f} GB"
        )
    return medians


def tokens_for(folder: Path, sequences: int, length: int) -> Path:
    path = folder.parent.parent / f"tokens-{sequences}x{length}.npy"
    np.save(path, np.random.default_rng(0).integers(0, 512, (sequences, length)))
    return path


def collect_on(
    device: str, folder: Path, tokens: Path, *, dtype: str, record: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """The records of one revision, by quantity and label."""
    from olmo_dynamics.checkpoints import open_source
    from olmo_dynamics.collection.collector import measure
    from olmo_dynamics.collection.options import CollectOptions
    from olmo_dynamics.collection.setup import make_setup

    source = open_source(folder.parent)
    with source.open(source.find(folder.name)) as checkpoint:
        options = CollectOptions(
            tokens=tokens, batch=np.load(tokens).shape, dtype=dtype, device=device, record=record
        )  # fmt: skip
        records = measure(checkpoint, make_setup(checkpoint, options, source="benchmark"))
    return {f"{each.quantity.key} {dict(each.at)}": np.asarray(each.values) for each in records}


def run_agreement(record: tuple[str, ...]) -> None:
    """Print the largest difference of each quantity between a CPU and a GPU, both in float32."""
    folder = make_checkpoint("150m", CACHE)
    tokens = tokens_for(folder, 4, 512)
    here, there = (collect_on(device, folder, tokens, dtype="float32", record=record) for device in ("cpu", DEVICE))
    assert here.keys() == there.keys()
    worst: dict[str, float] = {}
    for key, value in here.items():
        if np.issubdtype(value.dtype, np.floating) and value.size:
            scale = np.nanmax(np.abs(value), initial=0) or 1
            gap = float(np.nanmax(np.abs(there[key].astype(np.float64) - value.astype(np.float64)), initial=0) / scale)
            name = key.split(" ", 1)[0]
            worst[name] = max(worst.get(name, 0), gap)
        else:
            name = key.split(" ", 1)[0]
            worst[name] = max(worst.get(name, 0), float(np.any(value != there[key])))
    print(
        f"\nagreement of {len(worst)} quantities, 150m, float32 (largest difference over largest value; counts: 1 = differ)"
    )
    for name, gap in sorted(worst.items(), key=lambda each: -each[1]):
        print(f"{name:<48} {gap:.1e}")


def run_collect(shape: str, repeats: int, peak: float) -> None:
    folder = make_checkpoint(shape, CACHE, device=DEVICE)
    for sequences, length in ((8, 512), (32, 2048)):
        tokens = tokens_for(folder, sequences, length)
        methods: dict[str, Callable[[], object]] = {
            "olmo_dynamics, all groups": partial(collect_on, DEVICE, folder, tokens, dtype="bfloat16")
        }
        if sequences * length <= 8192:
            methods["transformers + hooks"] = partial(transformers_hooks, folder, tokens, device=DEVICE)
        taken = compared(f"Collecting one revision, {shape}, bf16, {sequences} × {length} tokens", methods, repeats)
        rate = products(folder, sequences * length) / taken["olmo_dynamics, all groups"]
        print(f"share of the measured peak: {rate / peak:.1%}")


def products(folder: Path, tokens: int) -> float:
    """Floating-point operations of a forward pass's matrix products with weights."""
    from olmo_dynamics.model import expected_shapes, parse_config

    shapes = expected_shapes(parse_config(json.loads((folder / "config.json").read_text())))
    return float(
        2 * tokens * sum(np.prod(shape) for name, shape in shapes.items() if len(shape) == 2 and "embed" not in name)
    )


def run_overhead(shape: str, repeats: int) -> None:
    folder = make_checkpoint(shape, CACHE, device=DEVICE)
    tokens = tokens_for(folder, 32, 2048)
    methods = {name: partial(forward, folder, tokens, groups, device=DEVICE) for name, groups in GROUPS.items()}
    compared(f"Recording beside the pass, {shape}, bf16, 32 × 2048 tokens", methods, repeats)


def run_trainer(repeats: int, peak: float) -> None:
    """Updates of the 1B shape, 8 × 2048 tokens."""
    import transformers

    from olmo_dynamics.model import parse_config, to_config_json
    from olmo_dynamics.training.data.windows import Windows
    from olmo_dynamics.training.distributed import place_state
    from olmo_dynamics.training.gradients import clip_gradients, open_gradients
    from olmo_dynamics.training.recipe import Recipe
    from olmo_dynamics.training.state import new_state
    from olmo_dynamics.training.trainer import update

    config = parse_config(json.loads((make_checkpoint("1b", CACHE, device=DEVICE) / "config.json").read_text()))
    tokens = np.random.default_rng(0).integers(0, 100_000, 40 * 8 * 2048)

    def ours(**changes: object) -> Iterator[None]:
        given = {"steps": 1000, "dtype": "bfloat16", "compile": False, **changes}
        recipe = Recipe(sequences_per_step=8, sequence_length=2048, **given)
        state = place_state(new_state(config, recipe), recipe, torch.device(DEVICE))
        batches = Windows(tokens, 2048, 8, seed=0)
        with open_gradients(state.model, recipe) as gradients:
            while True:
                gradients.of(batches.batch(state.step))
                clip_gradients(state.model.parameters(), recipe.clip)
                state.step += 1
                update(state, recipe, recipe.peak_lr)
                yield

    def loop() -> Iterator[None]:
        model: Any = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**to_config_json(config))).to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        batches = Windows(tokens, 2048, 8, seed=0)
        for position in range(1000):
            ids = torch.as_tensor(batches.batch(position).token_ids, device=DEVICE)
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield

    folder_products = products(make_checkpoint("1b", CACHE), 8 * 2048)
    attention = 4 * 8 * 2048 * 2048 * config.hidden_size * config.layers / 2  # causal: half of the pairs
    for name, make in {"olmo_dynamics": ours, "olmo_dynamics, compiled": lambda: ours(compile=True),
                       "transformers + autocast + fused AdamW": loop}.items():  # fmt: skip
        steps = make()
        taken = compared(f"Updates of the 1B shape, 8 × 2048 tokens: {name}", {name: partial(next, steps)}, 2 * repeats)
        steps.close()
        print(
            f"{8 * 2048 / taken[name]:,.0f} tokens/s, {3 * (folder_products + attention) / taken[name] / peak:.1%} of peak"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--shapes", nargs="*", default=["1b"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--record", default="", help="groups of agreement, separated by commas; default: those of collect"
    )
    given = parser.parse_args()
    peak = measured_peak()
    print(f"{torch.cuda.get_device_name()}: measured peak {peak / 1e12:.0f} TFLOP/s in bf16")
    if "agreement" in given.parts:
        run_agreement(tuple(filter(None, given.record.split(","))))
    for shape in given.shapes:
        if "collect" in given.parts:
            run_collect(shape, given.repeats, peak)
        if "overhead" in given.parts:
            run_overhead(shape, given.repeats)
    if "trainer" in given.parts:
        run_trainer(given.repeats, peak)


if __name__ == "__main__":
    main()
