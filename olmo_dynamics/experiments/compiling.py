"""The loops of a collection, compiled by another process while this one trains.

A new installation has compiled none of them, and a collection would begin by compiling for seconds. The other process collects
one revision of a tiny model, so that the cache folder holds every loop when the demo's own revisions are collected.

    >>> with compiling_aside():                                                            # doctest: +SKIP
    ...     pretrain(Path("cache/demo"))
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from olmo_dynamics.recorders.kernels.jit import is_compiled, is_kept

COMMAND = (sys.executable, "-m", "olmo_dynamics.experiments.compiling")
"""Of the other process; the path of an empty folder follows."""


@contextmanager
def compiling_aside() -> Iterator[None]:
    """Compile in another process meanwhile, unless the cache folder holds compiled loops or cannot hold any.

    The process ends with the block: what it has not compiled by then is compiled where it is needed first.
    """
    if is_compiled() or not is_kept():
        yield
        return
    nothing = subprocess.DEVNULL
    with TemporaryDirectory() as folder:
        process = subprocess.Popen((*COMMAND, folder), stdin=nothing, stdout=nothing, stderr=nothing)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def compile_loops(folder: Path) -> None:
    """Collect one revision of a model of two layers in float32, with every default group, in an empty folder."""
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.collection.live import model_files
    from olmo_dynamics.model import ModelConfig, build_model, init_weights
    from olmo_dynamics.progress import Progress

    config = ModelConfig(
        hidden_size=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate_size=96, vocab_size=576,
        max_positions=64, norm_eps=1e-6, rope_theta=5e5,
    )  # fmt: skip
    model = build_model(config, device="cpu")
    init_weights(model, seed=0)
    revision, tokens = folder / "run" / "step0", folder / "tokens.npy"
    revision.mkdir(parents=True)
    for name, content in model_files(model).items():
        (revision / name).write_bytes(content)
    np.save(tokens, np.arange(4 * config.max_positions).reshape(4, -1))
    collect(revision.parent, out=folder / "store.zarr", tokens=tokens, progress=Progress())


if __name__ == "__main__":
    compile_loops(Path(sys.argv[1]))
