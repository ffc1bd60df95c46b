"""Checkpoints of any size that are not stored: every byte of a shard is computed from its position when it is requested.

    stack = LayerStack()                                       # the shape of a 32B, about 64 GB in 13 shards
    hub.add_repo("org/stack", {"step0": stack.files(), "step1": LayerStack(seed=1).files()})
    LayerStack(layers=2, hidden=256, heads=4, kv_heads=2, intermediate=512, vocab=512).write(tmp_path / "cut")

Weights have a mean of 0 and a standard deviation of 0.02, those of norms 1 and 0.1, as bfloat16. Each tensor repeats one block of
random values, from a phase of its own; the block's length is a prime, so no two rows of a matrix are equal.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

BLOCK_VALUES = 2_097_143  # a prime a little below 2 Mi
_PIECE = 4 << 20  # 4 MiB in one piece at most
_ITEM = 2  # bytes of a bfloat16

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerStack:
    """An `olmo2` or `olmo3` checkpoint of that shape, in shards of at most `shard_bytes`; other seeds, other weights.

    With `hashed`, shards are read once to list their true SHA-256, which takes 0.7 s per GB and thread; else the hub lists none.
    """

    layers: int = 64
    hidden: int = 5120
    heads: int = 40
    kv_heads: int = 8
    intermediate: int = 27648
    vocab: int = 100352
    model_type: str = "olmo2"
    shard_bytes: int = 5_000_000_000
    seed: int = 0
    hashed: bool = False

    @property
    def config(self) -> dict[str, object]:
        """The contents of `config.json`."""
        sliding = {"layer_types": _layer_types(self.layers), "sliding_window": 4096}
        return {
            "architectures": [f"{self.model_type.capitalize()}ForCausalLM"],
            "attention_bias": False,
            "eos_token_id": min(100257, self.vocab - 1),
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 4096,
            "model_type": self.model_type,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": min(100277, self.vocab - 1),
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 500000,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
        } | (sliding if self.model_type == "olmo3" else {})

    @cached_property
    def shapes(self) -> Shapes:
        """Every tensor, in the order in which transformers fills shards."""
        body = {name: shape for layer in range(self.layers) for name, shape in self._layer(layer).items()}
        matrix = (self.vocab, self.hidden)
        return {
            "model.embed_tokens.weight": matrix,
            **body,
            "model.norm.weight": (self.hidden,),
            "lm_head.weight": matrix,
        }

    def _layer(self, layer: int) -> Shapes:
        hidden, kv, mlp = self.hidden, self.kv_heads * (self.hidden // self.heads), self.intermediate
        shapes: Shapes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_norm": (hidden,),
            "self_attn.k_norm": (kv,),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "mlp.down_proj": (hidden, mlp),
            "post_attention_layernorm": (hidden,),
            "post_feedforward_layernorm": (hidden,),
        }
        return {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(map(_nbytes, self.shapes.values()))

    def files(self) -> dict[str, bytes | Shard]:
        """The files of the checkpoint, as `LocalHub.add_repo` takes them."""
        shards = [Shard(shapes, self.seed) for shapes in self._shards()]
        if self.hashed:
            with ThreadPoolExecutor() as pool:
                list(pool.map(Shard.hash, shards))
        names = [f"model-{at:05}-of-{len(shards):05}.safetensors" for at in range(1, len(shards) + 1)]
        found: dict[str, bytes | Shard] = {"config.json": _json(self.config), "tokenizer.json": _json(_TOKENIZER)}
        if len(shards) == 1:
            return found | {"model.safetensors": shards[0]}
        homes = {name: file for file, shard in zip(names, shards, strict=True) for name in shard.shapes}
        index = {"metadata": {"total_size": self.nbytes}, "weight_map": homes}
        return found | {"model.safetensors.index.json": _json(index)} | dict(zip(names, shards, strict=True))

    def write(self, folder: Path) -> Path:
        """Write the files into a folder, for tests that need a real checkpoint; meant for small ones."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            with (folder / name).open("wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content.pieces())
        return folder

    def _shards(self) -> Iterator[Shapes]:
        shard: Shapes = {}
        for name, shape in self.shapes.items():
            if shard and sum(map(_nbytes, shard.values())) + _nbytes(shape) > self.shard_bytes:
                yield shard
                shard = {}
            shard[name] = shape
        yield shard


class Shard:
    """One safetensors file, tensors in alphabetical order as the library writes them; a `Content`."""

    def __init__(self, shapes: Shapes, seed: int) -> None:
        self.shapes = {name: shapes[name] for name in sorted(shapes)}
        ends = np.cumsum([0, *map(_nbytes, self.shapes.values())]).tolist()
        entries = {
            name: {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
            for (name, shape), start, stop in zip(self.shapes.items(), ends, ends[1:], strict=False)
        }
        text = _json({"__metadata__": {"format": "pt"}, **entries})
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self._starts = [0, *(len(self._header) + end for end in ends)]
        self._sources = [(self._header, 0), *(self._source(name, seed) for name in self.shapes)]
        self.size = self._starts[-1]
        self.key = hashlib.sha256(b"%d " % seed + self._header).hexdigest()
        self.sha256 = ""

    def hash(self) -> None:
        """Compute the true SHA-256."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        self.key = self.sha256 = digest.hexdigest()

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """The bytes from `start` up to `stop`; without a copy if they are few and of one tensor."""
        found = list(self.pieces(start, stop))
        return found[0] if len(found) == 1 else b"".join(found)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes | memoryview]:
        """The bytes in pieces of at most 4 MiB."""
        stop = self.size if stop is None else stop
        while start < stop:
            at = bisect.bisect_right(self._starts, start) - 1
            end = min(stop, self._starts[at + 1], start + _PIECE)
            source, phase = self._sources[at]
            place = start - self._starts[at] + phase
            place = place if at == 0 else place % (BLOCK_VALUES * _ITEM)
            yield source[place : place + end - start]
            start = end

    def _source(self, name: str, seed: int) -> tuple[memoryview, int]:
        """The block of a tensor's bytes, and the phase in bytes at which it begins."""
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        return _block(seed, len(self.shapes[name]) == 1), int.from_bytes(digest[:8], "little") % BLOCK_VALUES * _ITEM


@lru_cache(maxsize=8)
def _block(seed: int, is_norm: bool) -> memoryview:
    """Random bfloat16 values, followed by as many of the first ones as a piece may exceed the end."""
    spread = np.random.default_rng([seed, is_norm]).standard_normal(BLOCK_VALUES, dtype=np.float32)
    values = 1 + 0.1 * spread if is_norm else 0.02 * spread
    codes = (values.view(np.uint32) >> 16).astype("<u2")  # truncated, which is precise enough
    return memoryview(np.concatenate([codes, codes[: _PIECE // _ITEM]]).tobytes())


def _nbytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * _ITEM


def _layer_types(layers: int) -> list[str]:
    return ["full_attention" if (layer + 1) % 4 == 0 else "sliding_attention" for layer in range(layers)]


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_TOKENIZER: Mapping[str, object] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "the": 1, "a": 2, "of": 3, "and": 4}, "unk_token": "<unk>"},
}
