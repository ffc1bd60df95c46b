"""A checkpoint with the shape of OLMo 2 and random weights, in bf16 by default, written once and kept in cache/bench."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from olmo_dynamics.model import expected_shapes, parse_config

HERE = Path(__file__).parent
CACHE = HERE.parent / "cache" / "bench"
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    sequences: int = 8  # of 512 tokens, in the benchmarks of a forward pass


SHAPES = {
    "tiny": Shape(64, 2, 2, 128, 512),
    "150m": Shape(768, 12, 12, 2048, 50304),
    "1b": Shape(2048, 16, 16, 8192, 100352, sequences=4),
    "7b": Shape(4096, 32, 32, 11008, 100352),
}
_SHARD_BYTES = 2 << 30  # 2 GiB


def make_checkpoint(shape_name: str, cache: Path, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> Path:
    """The folder of one revision, `cache/SHAPE/step1000-tokens1000`, with a config, shards and an index.

    In another dtype than bfloat16, the folder is `cache/SHAPE-DTYPE/…`.
    """
    suffix = "" if dtype == torch.bfloat16 else f"-{dtype}".replace("torch.", "")
    folder = cache / f"{shape_name}{suffix}" / "step1000-tokens1000"
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = config_json(SHAPES[shape_name])
    generator = torch.Generator(device).manual_seed(0)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, size in expected_shapes(parse_config(config)).items():
        tensor = torch.empty(size, dtype=dtype, device=device).normal_(0, 0.02, generator=generator).cpu()
        if len(size) == 1:
            tensor += 1
        if sum(each.nbytes for each in shards[-1].values()) + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
        shards[-1][name] = tensor
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def config_json(shape: Shape) -> dict[str, object]:
    return {
        "model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads,
        "intermediate_size": shape.intermediate, "vocab_size": shape.vocabulary, "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0, "max_position_embeddings": 4096, "tie_word_embeddings": False, "hidden_act": "silu",
        "attention_bias": False, "pad_token_id": None, "eos_token_id": 0, "bos_token_id": None,
    }  # fmt: skip
