"""An activation feed beside the bare pass: two local revisions, the same tokens, up to the same layer, bf16.

The bare pass carries the tokens through the blocks and shows nothing. The feed does so too, holds the stream that leaves the
middle block of both revisions, shuffles it and gives it in batches. Weights are mapped in both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from benchmarks.forward_peers import token_file
from benchmarks.interleave import report_timing

METHODS = ("activation feed", "bare pass")
BATCH_TOKENS = 1024


def middle_layer(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["num_hidden_layers"]) // 2


def feed(folder: Path, tokens: Path) -> float:
    """Read every batch of both revisions; returns the tokens seen."""
    import olmo_dynamics as od

    found = od.stream_activations(
        folder.parent, layer=middle_layer(folder), tokens=tokens, batch_tokens=BATCH_TOKENS, shuffle_seed=0,
        dtype="bfloat16", threads=torch.get_num_threads(),
    )  # fmt: skip
    return float(sum(len(batch) * len(batch.revisions) for batch in found))


def bare(folder: Path, tokens: Path) -> float:
    """Carry the tokens through the same blocks of both revisions; returns the tokens seen."""
    from olmo_dynamics.model import Compute, StreamedPass, parse_config, stages

    token_ids = torch.tensor(np.load(tokens))
    revisions = sorted(each for each in folder.parent.iterdir() if (each / "config.json").exists())
    for revision in revisions:
        config = parse_config(json.loads((revision / "config.json").read_text()))
        streamed = StreamedPass(config, token_ids, sites=(), compute=Compute(dtype=torch.bfloat16))
        files = [safe_open(path, framework="pt") for path in sorted(revision.glob("*.safetensors"))]
        home = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - not a dict
        for stage in stages(config, until=middle_layer(folder) + 1):
            weights = {name: home[name].get_tensor(name) for name in stage.tensors}
            streamed.run(streamed.prepare(stage, weights), lambda seen: None)
    return float(token_ids.numel() * len(revisions))


WORK = dict(zip(METHODS, (feed, bare), strict=True))

if __name__ == "__main__":
    method, path = sys.argv[1], Path(sys.argv[2])
    token_path = token_file(path)
    report_timing(lambda: WORK[method](path, token_path))
