"""The head of a checkpoint: the config's word for it, corrected by the weights that are there.

The head is a matrix of its own or the embedding's (tied). Some files say one and hold another, and some hold the trunk of
another model, such as a reward model, which ends at the final norm.

    >>> missing_head({"architectures": ["Olmo2ForSequenceClassification"]}, ["model.norm.weight", "score.weight"])
    'Olmo2ForSequenceClassification: score.weight in place of lm_head.weight'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.config_json import parse_config
from olmo_dynamics.names import TensorInfo

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

OTHER_HEADS = ("score", "classifier", "qa_outputs", "v_head", "value_head", "reward_head")
"""First words of the names of heads that give other numbers than logits of tokens."""

_LANGUAGE_MODEL = "ForCausalLM"

Tensors = Mapping[str, TensorInfo] | Mapping[str, Tensor]
Reader = Callable[[Sequence[TensorInfo]], Mapping[str, np.ndarray]]
"""Reads tensors' bytes, by name."""


def resolve_config(words: Mapping[str, Any], tensors: Tensors, read: Reader | None = None) -> ModelConfig:
    """The model that a checkpoint's config and tensors describe together.

    A head in the file is used, whatever the config says of ties, as transformers does; give `read` to tie one that is
    equal to the embedding.

    Raises:
        UnknownModelError: the model type has no forward pass here.
        CheckpointError: the config asks for a computation that is not implemented, or contradicts itself.
    """
    config = parse_config(words, tensors)
    if HEAD in tensors:
        tied = config.tied_embeddings and read is not None and not has_other_head(tensors, read)
        return replace(config, tied_embeddings=tied)
    if missing_head(words, tensors):
        return replace(config, has_head=False, tied_embeddings=False)
    return config


def missing_head(words: Mapping[str, Any], tensors: Iterable[str]) -> str:
    """In words, what a checkpoint holds in place of a language model's head; empty if it is a language model's.

    A file without a head is a fault where the config names a language model, unless another head is there.
    """
    names = set(tensors)
    others = sorted(name for name in names if is_other_head(name))
    given = words.get("architectures")
    kinds = [each for each in given if isinstance(each, str)] if isinstance(given, list) else []
    language_model = not kinds or any(each.endswith(_LANGUAGE_MODEL) for each in kinds)
    if HEAD in names or (not others and (language_model or words.get("tie_word_embeddings"))):
        return ""
    kind = f"{kinds[0]}: " if kinds else ""
    return f"{kind}{others[0]} in place of {HEAD}" if others else f"{kind}no {HEAD}"


def is_other_head(name: str) -> bool:
    """True for a tensor of a head that does not give logits of tokens, such as a reward model's `score.weight`."""
    return name.split(".", maxsplit=1)[0] in OTHER_HEADS


def has_other_head(tensors: Tensors, read: Reader) -> bool:
    """True if a head is stored beside the embedding, and holds other values."""
    infos = [tensors[name] for name in (EMBEDDING, HEAD) if name in tensors]
    if len(infos) < 2:
        return False
    one, other = infos
    if not isinstance(one, TensorInfo) or not isinstance(other, TensorInfo):
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return True
    found = read([one, other])
    return not _are_equal(found[EMBEDDING], found[HEAD])


_BLOCK = 16 << 20  # 16 MiB: so much is compared at once


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    return all(
        np.array_equal(one[start : start + _BLOCK], other[start : start + _BLOCK])
        for start in range(0, max(len(one), len(other)), _BLOCK)
    )
