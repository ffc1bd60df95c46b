"""A tiny byte-level tokenizer, trained here, and the real ones where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
REAL = ("dolma2", "gpt-neox-olmo-dolma-v1_5")
SAMPLES = ["the tide clerk kept the tide ledger", "für Élise, 12 → 34", "def main(): return 0"] * 3


def train_tiny(*, special: list[str], normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLES, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def train() -> Callable[..., Tokenizer]:
    """Trains a tiny tokenizer with other special tokens, or a normalizer."""
    return train_tiny


@pytest.fixture(scope="session")
def tiny_json() -> bytes:
    return train_tiny(special=["<|endoftext|>", "<|pad|>"]).to_str().encode()


@pytest.fixture(scope="session", params=REAL)
def real_json(request: pytest.FixtureRequest) -> bytes:
    path = SHARED / "data" / "tokenizers" / f"{request.param}.json"
    if not path.is_file():
        pytest.skip(f"no tokenizer at {path}")
    return path.read_bytes()
