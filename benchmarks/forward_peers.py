"""Comparisons for a recorded forward pass: transformers with hooks, and the bare matrix products, with two threads each."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.checkpoint import SHAPES

LENGTH = 512
_BLOCK = 512  # tokens at a time: at least as fast here as 4,096


def token_file(folder: Path, sequences: int = 0) -> Path:
    """The token ids that every method reads: as many sequences as given, or else as the shape declares."""
    sequences = sequences or SHAPES[folder.parent.name].sequences
    path = folder.parent.parent / f"tokens-{sequences}x{LENGTH}.npy"
    if not path.exists():
        np.save(path, np.random.default_rng(0).integers(0, 512, (sequences, LENGTH)))
    return path


@torch.inference_mode()
def transformers_hooks(folder: Path, tokens: Path, device: str = "cpu") -> float:
    """Load the model, hook every block's output, attention and MLP, and reduce each to RMS, maximum and token norm."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map=device)
    recorded = []

    def record(module: torch.nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        values = (output[0] if isinstance(output, tuple) else output).float()
        recorded.append((values.square().mean().sqrt(), values.abs().max(), values.norm(dim=-1).mean()))

    for block in model.model.layers:
        for module in (block, block.self_attn, block.mlp):
            module.register_forward_hook(record)
    ids = torch.from_numpy(np.load(tokens)).to(device)
    return float(model(input_ids=ids, labels=ids).loss)


def matrix_products(folder: Path, tokens: Path) -> float:
    """Compute the forward pass's matrix products alone, on memory already allocated, each thread with half of the tokens."""
    from olmo_dynamics.model import expected_shapes, parse_config

    config = parse_config(json.loads((folder / "config.json").read_text()))
    matrices = [
        shape for name, shape in expected_shapes(config).items() if len(shape) == 2 and "embed_tokens" not in name
    ]
    count = np.load(tokens).size
    weights = {shape: torch.ones(shape, dtype=torch.bfloat16) for shape in set(matrices)}

    def half(_: int) -> None:
        torch.set_num_threads(1)
        for rows, columns in matrices:
            left = torch.ones(_BLOCK, columns, dtype=torch.bfloat16)
            out = torch.empty(_BLOCK, rows, dtype=torch.bfloat16)
            for _ in range(count // _BLOCK // 2):
                torch.mm(left, weights[rows, columns].T, out=out)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(half, range(2)))
    return float(2 * count * sum(rows * columns for rows, columns in matrices))
