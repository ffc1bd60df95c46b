"""Tiny real runs for tests: checkpoints written by transformers, with a tokenizer of their own."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, Olmo2Config, Olmo2ForCausalLM

from tests.model import ladder_reference  # noqa: F401  # registers its family

TINY = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}

FAMILIES = {
    "olmo": {"clip_qkv": 8.0},
    "olmo2": {},
    "olmo3": {"num_hidden_layers": 4, "sliding_window": 8},
    "olmoe": {"num_hidden_layers": 3, "intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2},
    "gpt_neox": {"num_key_value_heads": None},
    "llama": {"attention_bias": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "olmo_ladder": {
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "attention_layer_norm": True,
        "attention_layer_norm_with_affine": True,
    },
}
"""What each family's config has beside `TINY`, or instead."""


def tiny_model(seed: int, dtype: torch.dtype = torch.float32) -> Olmo2ForCausalLM:
    """A random OLMo 2 whose weights and gains are far from their initial symmetry, with one planted outlier feature."""
    torch.manual_seed(seed)
    model = Olmo2ForCausalLM(Olmo2Config(**TINY))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.1 * torch.randn_like(parameter))
        for layer in model.model.layers:
            layer.post_feedforward_layernorm.weight[7] = 9.0 + seed
    return model.to(dtype).eval()


@cache
def tiny_tokenizer() -> str:
    """A byte-level BPE of 300 entries as tokenizer.json text; id 0 ends a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the model reads the tokens and then the next token"] * 4, trainer)
    return str(tokenizer.to_str())


def write_revision(folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, shard: str | None = None) -> Path:
    """One revision as transformers writes it, with tokenizer.json."""
    options = {"max_shard_size": shard} if shard else {}
    tiny_model(seed, dtype).save_pretrained(folder, **options)
    (folder / "tokenizer.json").write_text(tiny_tokenizer(), encoding="utf-8")
    return folder


def write_run(folder: Path, names: tuple[str, ...], *, dtype: torch.dtype = torch.float32) -> Path:
    """A folder of revisions, each with its own weights."""
    for seed, name in enumerate(names):
        write_revision(folder / name, seed, dtype=dtype)
    return folder


def write_family_run(folder: Path, names: tuple[str, ...], family: str) -> Path:
    """A run of any family as transformers writes it: random weights that move from one revision to the next."""
    config = AutoConfig.for_model(family, **TINY | FAMILIES[family])
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(names):
        with torch.no_grad():
            for parameter in model.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                start = torch.zeros_like(parameter) if number == 0 else parameter
                parameter.copy_(start + drawn * (0.2 if number == 0 else 0.05))
                if number == 0 and parameter.ndim == 1:
                    parameter.add_(1)
        model.save_pretrained(folder / name)
        (folder / name / "tokenizer.json").write_text(tiny_tokenizer(), encoding="utf-8")
    return folder


def edit_config(revision: Path, **changes: object) -> None:
    """Change a revision's config.json."""
    path = revision / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
