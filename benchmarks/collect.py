"""One local revision in bf16: this package with every statistic, transformers + hooks with a few, the matrix products alone."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.forward_peers import matrix_products, token_file, transformers_hooks
from benchmarks.interleave import report_timing

METHODS = ("olmo_dynamics, all groups", "transformers + hooks", "matrix products alone")


def collected(folder: Path, tokens: Path, threads: int | None = None) -> float:
    from olmo_dynamics.checkpoints import open_source
    from olmo_dynamics.collection.collector import measure
    from olmo_dynamics.collection.limits import Limits
    from olmo_dynamics.collection.options import CollectOptions
    from olmo_dynamics.collection.setup import make_setup

    source = open_source(folder.parent)
    with source.open(source.find(folder.name)) as checkpoint:
        options = CollectOptions(tokens=tokens, batch=np.load(tokens).shape, dtype="bfloat16")
        records = measure(checkpoint, make_setup(checkpoint, options, source="benchmark"), Limits(threads=threads))
    loss = [each for each in records if each.quantity.key == "loss/cross_entropy"]
    return float(loss[0].values)


def warm_up(folder: Path, tokens: Path) -> None:
    """Compile or load the kernels, which a collection does once, not once per revision."""
    from benchmarks.checkpoint import make_checkpoint

    collected(make_checkpoint("tiny", folder.parent.parent), tokens)


if __name__ == "__main__":
    method, path = sys.argv[1], Path(sys.argv[2])
    token_path = token_file(path)
    work = dict(zip(METHODS, (collected, transformers_hooks, matrix_products), strict=True))[method]
    if method == METHODS[0]:
        warm_up(path, token_path)
    report_timing(lambda: work(path, token_path))
