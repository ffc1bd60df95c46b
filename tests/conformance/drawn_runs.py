"""Runs of drawn models on disk: weights of any family, a tokenizer of fewer ids than rows, and AdamW's state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from olmo_dynamics.checkpoints.formats.written_state import WRITTEN_FILE
from olmo_dynamics.collecting import collect
from olmo_dynamics.collection.setup.revision_state import GROUPS_FILE
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.model import LanguageModel, ModelConfig, family_of, published_config
from olmo_dynamics.progress import Progress
from tests.model.drawing import random_model

NAMES = ("step0-tokens0", "step10-tokens1B")
BETAS, EPS, RATE, STEP = (0.9, 0.95), 1e-2, 3e-4, 7
SKETCH_SIZE = 64
PADDING_IDS = 5
"""Rows of the embedding that the tokenizer has no id for."""


@dataclass(frozen=True)
class DrawnRun:
    """A folder of revisions, the models that were written there, and token ids in two domains whose windows differ in length."""

    folder: Path
    models: dict[str, LanguageModel]
    tokens: list[Path]

    @property
    def config(self) -> ModelConfig:
        return self.models[NAMES[0]].config


def draw_run(folder: Path, config: ModelConfig, *, seed: int = 0, positions: int = 20, rows: int = 9) -> DrawnRun:
    """Write two revisions of random weights, and two token files of which the last row is not filled."""
    drawn = {name: random_model(config, seed=seed + number) for number, name in enumerate(NAMES)}
    for number, (name, model) in enumerate(drawn.items()):
        write_drawn(folder / "run" / name, model, seed=seed + number)
    rng, files = np.random.default_rng(seed), []
    for domain, count in (("code", rows), ("prose", 2)):
        ids = rng.integers(0, config.vocab_size - PADDING_IDS, count * positions - positions // 3)
        again = np.arange(
            1, len(ids), positions
        )  # the same token twice is the same vector twice, at the start of a window
        ids[again] += np.where(ids[again] == ids[again - 1], 1 - 2 * (ids[again] > 0), 0)
        files.append(folder / f"{domain}.npy")
        np.save(files[-1], ids)
    return DrawnRun(folder / "run", drawn, files)


def write_drawn(folder: Path, model: LanguageModel, *, seed: int) -> None:
    """One revision in Hugging Face's format, with AdamW's state as this library writes it."""
    folder.mkdir(parents=True)
    config, weights = model.config, {name: each.contiguous() for name, each in model.state_dict().items()}
    published = family_of(config.model_type).publish(config, weights)
    (folder / "config.json").write_text(json.dumps(published_config(config, dtype="float32")))
    (folder / "tokenizer.json").write_text(drawn_tokenizer(config.vocab_size - PADDING_IDS), encoding="utf-8")
    save_file(published, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / WRITTEN_FILE).parent.mkdir()
    state = {f"{name}.{kind}": each for name, both in drawn_state(model, seed).items() for kind, each in both.items()}
    save_file(state | {f"{name}.step": torch.tensor(float(STEP)) for name in weights}, folder / WRITTEN_FILE)
    groups = [{"lr": RATE, "betas": list(BETAS), "eps": EPS, "params": list(weights)}]
    (folder / GROUPS_FILE).write_text(json.dumps({"optimizer": "AdamW", "groups": groups}))


def drawn_state(model: LanguageModel, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Both moments of every tensor."""
    generator = torch.Generator().manual_seed(seed)
    gradients = {name: 0.1 * torch.randn(each.shape, generator=generator) for name, each in model.state_dict().items()}
    return {name: {"exp_avg": 0.3 * each, "exp_avg_sq": each.square() * 0.2} for name, each in gradients.items()}


def drawn_tokenizer(size: int) -> str:
    """A byte-level tokenizer.json of so many ids: single bytes, and id 0 ends a document."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: size - 1]
    vocabulary = {"<|endoftext|>": 0} | {letter: number for number, letter in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return str(tokenizer.to_str())


def collected(run: DrawnRun, out: Path, **options: Any) -> RecordedStore:
    """A store of every built-in group, in float32, unless other options are given."""
    source = options.pop("source", run.folder)
    given: dict[str, Any] = {"record": "all", "tokens": run.tokens, "batch": (11, 64), "sketch_size": SKETCH_SIZE}
    return collect(source, out=out, **given | {"dtype": "float32", "progress": Progress()} | options)
