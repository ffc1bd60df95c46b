"""P2: one local revision in bf16: ours with every statistic, transformers + hooks with a few, the GEMM limit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.forward_peers import matrix_products, token_file, transformers_hooks
from benchmarks.turns import report_turn

METHODS = ("ours, all groups", "transformers + hooks", "matrix products alone")


def ours(folder: Path, tokens: Path) -> float:
    from olmo_dynamics.checkpoints import open_source
    from olmo_dynamics.collection.conductor import measure
    from olmo_dynamics.collection.measurement import Measurement
    from olmo_dynamics.collection.study import prepare

    source = open_source(folder.parent)
    with source.open(source.find(folder.name)) as checkpoint:
        study = prepare(checkpoint, Measurement(tokens=tokens, batch=np.load(tokens).shape), source="benchmark")
        records = measure(checkpoint, study)
    loss = [each for each in records if each.quantity.key == "loss/cross_entropy"]
    return float(loss[0].values)


def warm_ours(folder: Path, tokens: Path) -> None:
    """Compile or load the kernels, which a collection does once, not once a revision."""
    from benchmarks.checkpoint import make_checkpoint

    ours(make_checkpoint("tiny", folder.parent.parent), tokens)


if __name__ == "__main__":
    method, path = sys.argv[1], Path(sys.argv[2])
    token_path = token_file(path)
    work = dict(zip(METHODS, (ours, transformers_hooks, matrix_products), strict=True))[method]
    if method == METHODS[0]:
        warm_ours(path, token_path)
    report_turn(lambda: work(path, token_path))
