"""Parameter statistics of a bf16 checkpoint: this package, safe_open + torch ops, chunked torch, and the read limit.

One more turn of this package reads a float32 checkpoint of the same shape.

Every method computes, per tensor, L2 norm, mean, standard deviation, largest magnitude, kurtosis and row and column norms.
This package adds quantiles, medians and counts. The page cache is warm.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from benchmarks.checkpoint import make_checkpoint
from benchmarks.interleave import report_timing

METHODS = ("olmo_dynamics", "chunked torch, float64", "safe_open + torch ops", "pread, two threads")
FLOAT32 = "olmo_dynamics, float32"
_CHUNK = 128 * 1024  # elements: 256 KiB of bf16


def surveyed(folder: Path) -> float:
    """Survey blocks of rows on two threads; complete a tensor when its last block is there."""
    from olmo_dynamics.checkpoints import open_source
    from olmo_dynamics.recorders import block_stats, complete, measurable, row_blocks
    from olmo_dynamics.recorders.parameters import parameter_records

    source = open_source(folder.parent)
    squares = 0.0
    with source.open(source.find(folder.name)) as checkpoint, ThreadPoolExecutor(2) as pool:
        infos = [info for info in checkpoint.tensors.values() if measurable(info)]
        raws = checkpoint.read_many(infos)  # mapped, not read
        pending = deque(
            (info, [pool.submit(block_stats, raws[info.name], info, rows) for rows in row_blocks(info)])
            for info in infos
        )
        while pending:
            info, parts = pending.popleft()
            for record in parameter_records(complete([part.result() for part in parts], pool.map), info):
                if record.quantity.name == "l2_norm":
                    squares += float(record.values) ** 2
    return float(np.sqrt(squares))


def elements(folder: Path) -> int:
    """The count of numbers in the checkpoint; the shards' headers are negligible."""
    return sum(shard.stat().st_size for shard in folder.glob("*.safetensors")) // 2


def warm_up(folder: Path) -> None:
    """Compile or load the kernels, which a collection does once, not once per revision."""
    for dtype in (torch.bfloat16, torch.float32):
        surveyed(make_checkpoint("tiny", folder.parent.parent, dtype=dtype))


def in_float32(folder: Path) -> Path:
    """The checkpoint of the same shape in float32, written if it is not there."""
    return make_checkpoint(folder.parent.name, folder.parent.parent, dtype=torch.float32)


def tensors_of(folder: Path) -> Iterator[torch.Tensor]:
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield file.get_tensor(name)


def safe_open_torch(folder: Path) -> float:
    total = 0.0
    for stored in tensors_of(folder):
        tensor = stored.double()
        centred = tensor - tensor.mean()
        variance = centred.square().mean()
        statistics = (tensor.std(), tensor.abs().max(), centred.pow(4).mean() / variance**2)
        assert all(each.isfinite() for each in statistics)
        if tensor.ndim == 2:
            tensor.norm(dim=0), tensor.norm(dim=1)
        total += float(tensor.norm()) ** 2
    return float(np.sqrt(total))


def chunked_torch(folder: Path) -> float:
    """Sum in float64, in one pass over chunks that fit the cache, with two threads of one tensor each."""
    torch.set_num_threads(1)
    with ThreadPoolExecutor(2) as pool:
        return float(np.sqrt(sum(pool.map(chunked_statistics, tensors_of(folder)))))


def chunked_statistics(stored: torch.Tensor) -> float:
    matrix = stored if stored.ndim == 2 else stored[None]
    width = matrix.shape[1]
    columns = torch.zeros(width, dtype=torch.float64)
    powers = torch.zeros(4, dtype=torch.float64)
    largest = 0.0
    for chunk in matrix.split(max(1, _CHUNK // width)):
        block = chunk.float()
        squares = block.square()
        row_squares = squares.sum(1, dtype=torch.float64)
        columns += squares.sum(0, dtype=torch.float64)
        powers[0] += block.sum(dtype=torch.float64)
        powers[1] += row_squares.sum()
        powers[2] += (squares * block).sum(dtype=torch.float64)
        powers[3] += squares.square().sum(dtype=torch.float64)
        largest = max(largest, float(block.abs().max()))
    return float(powers[1])


def pread_limit(folder: Path) -> float:
    """Read every byte into a reused buffer with two threads: the machine's limit for a warm file."""
    block = 8 << 20

    def read(span: tuple[Path, int, int]) -> int:
        path, start, stop = span
        buffer, count = bytearray(block), 0
        with path.open("rb", buffering=0) as file:
            for offset in range(start, stop, block):
                count += os.preadv(file.fileno(), [memoryview(buffer)[: min(block, stop - offset)]], offset)
        return count

    spans = []
    for shard in folder.glob("*.safetensors"):
        middle = shard.stat().st_size // 2
        spans += [(shard, 0, middle), (shard, middle, shard.stat().st_size)]
    with ThreadPoolExecutor(2) as pool:
        return float(sum(pool.map(read, spans)))


if __name__ == "__main__":
    method, path = sys.argv[1], Path(sys.argv[2])
    works = dict(zip(METHODS, (surveyed, chunked_torch, safe_open_torch, pread_limit), strict=True))
    if method in (METHODS[0], FLOAT32):
        warm_up(path)
    read = in_float32(path) if method == FLOAT32 else path
    report_timing(lambda: works.get(method, surveyed)(read))
