"""P2: one local revision, 8 x 512 tokens in bf16: ours with every statistic, transformers + hooks with a few, the GEMM limit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.turns import report_turn

METHODS = ("ours, all groups", "transformers + hooks", "GEMM limit")
_SEQUENCES, _LENGTH = 8, 512


def token_file(folder: Path) -> Path:
    """8 x 512 token ids, the same for every method."""
    path = folder.parent.parent / "tokens.npy"
    if not path.exists():
        np.save(path, np.random.default_rng(0).integers(0, 512, (_SEQUENCES, _LENGTH)))
    return path


def ours(folder: Path, tokens: Path) -> float:
    from olmo_dynamics.checkpoints import open_source
    from olmo_dynamics.collection.conductor import measure
    from olmo_dynamics.collection.measurement import Measurement
    from olmo_dynamics.collection.study import prepare

    source = open_source(folder.parent)
    with source.open(source.find(folder.name)) as checkpoint:
        study = prepare(checkpoint, Measurement(tokens=tokens, batch=(_SEQUENCES, _LENGTH)), source="benchmark")
        records = measure(checkpoint, study)
    loss = [each for each in records if each.quantity.key == "loss/cross_entropy"]
    return float(loss[0].values)


def warm_ours(folder: Path, tokens: Path) -> None:
    """Compile or load the kernels, which a collection does once, not once a revision."""
    from benchmarks.checkpoint import make_checkpoint

    ours(make_checkpoint("tiny", folder.parent.parent), tokens)


@torch.inference_mode()
def transformers_hooks(folder: Path, tokens: Path) -> float:
    """Load the model, hook every block's output, attention and MLP, and reduce each to RMS, maximum and token norm."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    recorded = []

    def record(module: torch.nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        values = (output[0] if isinstance(output, tuple) else output).float()
        recorded.append((values.square().mean().sqrt(), values.abs().max(), values.norm(dim=-1).mean()))

    for block in model.model.layers:
        for module in (block, block.self_attn, block.mlp):
            module.register_forward_hook(record)
    ids = torch.from_numpy(np.load(tokens))
    return float(model(input_ids=ids, labels=ids).loss)


def gemm_limit(folder: Path, tokens: Path) -> float:
    """The time of the forward pass's matrix products alone, at this machine's measured bf16 rate."""
    from olmo_dynamics.model import expected_shapes, parse_config

    config = parse_config(json.loads((folder / "config.json").read_text()))
    matrices = [
        shape for name, shape in expected_shapes(config).items() if len(shape) == 2 and "embed_tokens" not in name
    ]
    count = _SEQUENCES * _LENGTH
    for rows, columns in matrices:
        left = torch.ones(count, columns, dtype=torch.bfloat16)
        left @ torch.ones(columns, rows, dtype=torch.bfloat16)
    return float(2 * count * sum(rows * columns for rows, columns in matrices))


if __name__ == "__main__":
    method, path = sys.argv[1], Path(sys.argv[2])
    token_path = token_file(path)
    work = dict(zip(METHODS, (ours, transformers_hooks, gemm_limit), strict=True))[method]
    if method == METHODS[0]:
        warm_ours(path, token_path)
    report_turn(lambda: work(path, token_path))
