"""The cost of each group that is not recorded by default beside the pass of the loss alone, and beside transformers.

Each method measures one local revision into a store, on sequences of 512 tokens with the same threads. The groups come from
the package, so that a new one is a row by itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.checkpoint import make_checkpoint
from benchmarks.forward_peers import token_file
from benchmarks.interleave import report_timing

BARE = "bare pass"
LIMITS = {"attention": 1.5}
"""The most times the bare pass that a group may take with the loss."""

PEERS = (
    "transformers",
    "transformers, output_attentions",
    "transformers, hidden states and hooks",
    "transformers, backward",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def groups() -> tuple[str, ...]:
    """The groups to measure: one for each recorder of a pass over the same tokens that is not recorded by default."""
    from olmo_dynamics.quantities.declaration import Reads
    from olmo_dynamics.recorders import BUILT_IN

    passes = (Reads.ACTIVATIONS, Reads.GRADIENTS)
    chosen = [kind for kind in BUILT_IN if kind.reads in passes and not (kind.by_default or kind.needs_tokenizer)]
    found = [kind.group.name for kind in chosen]
    return tuple(dict.fromkeys(found))


def methods() -> tuple[str, ...]:
    """The bare pass, every group beside it, and transformers."""
    return BARE, *groups(), *PEERS


def measure(folder: Path, tokens: Path, record: tuple[str, ...], dtype: str) -> float:
    """Measure the revision into a store of its own; returns the loss."""
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    with tempfile.TemporaryDirectory() as place:
        options: dict[str, Any] = {"dtype": dtype, "record": record, "tokens": tokens, "progress": Progress()}
        if "ngram" in record:
            options["counts"] = _counts(folder, tokens, Path(place))
        store = collect(folder.parent, out=Path(place) / "s.zarr", batch=np.load(tokens).shape, **options)
        return float(store.arrays("loss")["cross_entropy"][0, 0])


def _counts(folder: Path, tokens: Path, place: Path) -> Path:
    """Counts of other tokens than the probe's."""
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(1).integers(0, vocabulary, 1 << 16)
    pair, count = np.unique(np.stack([ids[:-1], ids[1:]], axis=1), axis=0, return_counts=True)
    path = place / "counts.npz"
    np.savez(path, unigram=np.bincount(ids, minlength=vocabulary), pair=pair, count=count)
    return path


def compare(folder: Path, tokens: Path, method: str, dtype: str) -> float:
    """Read the same tokens with transformers, and reduce the values that the method keeps; returns the loss."""
    from transformers import AutoModelForCausalLM

    attention = "eager" if method.endswith("output_attentions") else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation=attention)
    ids = torch.from_numpy(np.load(tokens))
    if method.endswith("backward"):
        return _backward(model, ids)
    with torch.inference_mode():
        return {PEERS[0]: _plain, PEERS[1]: _attentions, PEERS[2]: _hooks}[method](model, ids)


def _plain(model: Any, ids: torch.Tensor) -> float:
    return float(model(input_ids=ids, labels=ids).loss)


def _attentions(model: Any, ids: torch.Tensor) -> float:
    """Entropy, mass on the first position and on the previous token of every head."""
    found = model(input_ids=ids, labels=ids, output_attentions=True)
    for weights in found.attentions:
        wide = weights.float()
        _ = torch.special.entr(wide).sum(-1).mean((0, 2)), wide[..., 1:, 0].mean((0, 2))
        _ = wide.diagonal(-1, -2, -1).mean((0, 2))
    return float(found.loss)


def _hooks(model: Any, ids: torch.Tensor) -> float:
    """Norms of what attention and MLP write, and the logit lens of 512 tokens after every block."""
    written: list[torch.Tensor] = []

    def record(module: torch.nn.Module, inputs: object, output: Any) -> None:
        written.append((output[0] if isinstance(output, tuple) else output).float().norm(dim=-1).mean())

    for block in model.model.layers:
        for module in (block.post_attention_layernorm, block.post_feedforward_layernorm):
            module.register_forward_hook(record)
    found = model(input_ids=ids, labels=ids, output_hidden_states=True)
    for state in found.hidden_states[1:]:
        sample = state.flatten(0, 1)[:: max(1, ids.numel() // 512)][:512]
        _ = torch.log_softmax(model.lm_head(model.model.norm(sample)).float(), dim=-1).amax(-1).mean()
    return float(found.loss)


def _backward(model: Any, ids: torch.Tensor) -> float:
    """The gradient of each sequence's loss, and the norms of all tensors."""
    total = 0.0
    for row in ids:
        model.zero_grad()
        loss = model(input_ids=row[None], labels=row[None]).loss
        loss.backward()
        _ = [float(each.grad.norm()) for each in model.parameters()]
        total += float(loss.detach())
    return total / len(ids)


if __name__ == "__main__":
    method, path, dtype = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    token_path = token_file(path, int(sys.argv[4]))
    if method in PEERS:
        report_timing(lambda: compare(path, token_path, method, dtype))
    else:
        record = ("loss",) if method == BARE else ("loss", method)
        small = make_checkpoint("tiny", path.parent.parent)
        measure(small, token_file(small), record, dtype)  # kernels are compiled, or loaded
        report_timing(lambda: measure(path, token_path, record, dtype))
