"""Time that recording adds to the forward pass of one local revision: sequences of 512 tokens, bf16, the same threads.

The bare pass measures the loss alone. Weights are mapped, and no parameter statistics are computed. As in a collection, what the
parts of a stage saw is merged beside the next stage. Every block, the head and all tokens are run, at 1B too: a turn there takes
about as long as a pass of the model's products, three of each method about five minutes on two cores.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from benchmarks.forward_peers import token_file
from benchmarks.interleave import report_timing

GROUPS = {
    "bare pass": ("loss",),
    "norms, outliers, kurtosis": ("loss", "activations", "outliers"),
}
METHODS = tuple(GROUPS)


def forward(folder: Path, tokens: Path, groups: tuple[str, ...], device: str = "cpu") -> float:
    """Run the pass of one revision; returns the loss."""
    from olmo_dynamics.collection.recorded_pass import RecordedPass
    from olmo_dynamics.model import Compute, parse_config
    from olmo_dynamics.probes import load_probe
    from olmo_dynamics.recorders import find_recorders

    config = parse_config(json.loads((folder / "config.json").read_text()))
    probe = load_probe(None, tokens=tokens, batch=np.load(tokens).shape, vocab_size=config.vocab_size)
    compute = Compute(device=device, dtype=torch.bfloat16)
    recorded = RecordedPass(config, probe, find_recorders(groups), groups=groups, compute=compute)
    files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
    home = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - not a dict
    records = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        beside = pool if torch.get_num_threads() > 1 else None
        for stage in recorded.stages:
            weights = {name: home[name].get_tensor(name) for name in stage.tensors}
            records += recorded.run_prepared(recorded.prepare(stage, weights), beside)
    return next(float(each.values) for each in records if each.quantity.key == "loss/cross_entropy")


if __name__ == "__main__":
    method, path = sys.argv[1], Path(sys.argv[2])
    token_path = token_file(path)
    from benchmarks.checkpoint import make_checkpoint

    forward(make_checkpoint("tiny", path.parent.parent), token_path, GROUPS[method])  # kernels are compiled, or loaded
    report_timing(lambda: forward(path, token_path, GROUPS[method]))
