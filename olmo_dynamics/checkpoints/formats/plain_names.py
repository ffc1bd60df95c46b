"""Canonical names of the tensors in Hugging Face files, whatever wrote them.

Files hold the names of the class that was saved: with the prefixes of its wrappers (`torch.compile`, FSDP), without the
`model.` of a language model if a base class was saved, and hf_olmo's native ones. Names are changed only where the place in
the language model is known; all others are left as they are.

    >>> canonical_names(["_orig_mod.layers.0.mlp.up_proj.weight", "score.weight"], lambda: {"model_type": "olmo2"})
    {'_orig_mod.layers.0.mlp.up_proj.weight': 'model.layers.0.mlp.up_proj.weight', 'score.weight': 'score.weight'}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from olmo_dynamics.checkpoints.formats.canonical_names import ModelShape, known_views, native_views
from olmo_dynamics.checkpoints.formats.families import LLAMA_SHAPED, OWN_NAMES
from olmo_dynamics.checkpoints.formats.families.neox_names import is_neox
from olmo_dynamics.checkpoints.formats.native_config import canonical_config, canonical_sizes, is_native, is_tied
from olmo_dynamics.checkpoints.formats.tensor_views import Chunk, Stored, TensorSet, View
from olmo_dynamics.checkpoints.tensors import Span, SpanReader, read_tensors
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.names import TensorInfo

Words = Callable[[], Mapping[str, Any]]
"""Gives the contents of `config.json`; empty where it is missing or damaged."""

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # at any depth
_OUTSIDE = "module."  # of data parallelism, before every name
_NATIVE_BLOCK = re.compile(r"(?:^|\.)transformer\.blocks\.\d+\.")
_LAYERS = re.compile(r"(.*?)layers\.\d+\.")
_TRUNK = ("embed_tokens.", "layers.", "norm.")
_ADAPTER = "base_model."


def canonical_names(names: Iterable[str], words: Words) -> dict[str, str]:
    """The canonical name of each stored one; none is changed if two would be the same.

    `words` gives the contents of `config.json`, and is called only where a name depends on them.
    """
    stored = list(names)
    found = [_unwrapped(name) for name in stored]
    if found and all(name.startswith(_OUTSIDE) for name in found):
        found = [name.removeprefix(_OUTSIDE) for name in found]
    only_head = any(name.endswith(HEAD) for name in found) and not any(name.endswith(EMBEDDING) for name in found)
    if (only_head or _prefix(found) is not None) and words().get("model_type") in LLAMA_SHAPED:
        found = _of_language_model(found)
        if only_head and HEAD in found and is_tied(words()):
            found[found.index(HEAD)] = EMBEDDING  # one matrix, stored under the name of its other end
    return dict(zip(stored, found if len(set(found)) == len(found) else stored, strict=True))


def plain_config(words: dict[str, Any]) -> dict[str, Any]:
    """The contents of `config.json` under Hugging Face's names.

    Raises:
        CheckpointError: they are hf_olmo's, and need a computation that is not implemented.
    """
    return canonical_config(words) if is_native(words) else words


def plain_weights(
    read: SpanReader, files: Mapping[str, int], words: Words
) -> tuple[TensorSet | None, dict[str, TensorInfo]]:
    """The tensors of safetensors files under canonical names, in file order, and the views that split fused ones, if any are.

    Raises:
        CheckpointError: there are no weights, a header or the index is wrong, or two are the same tensor.
    """
    tensors = read_tensors(read, files)
    if _are_native(tensors, words) or _has_own_names(tensors, words):
        views = TensorSet(read, named_views(map(stored_info, tensors.values()), words))
        return views, dict(views.infos)
    names = canonical_names(tensors, words)
    return None, {names[name]: replace(info, name=names[name]) for name, info in tensors.items()}


def named_views(stored: Iterable[Stored], words: Words) -> Iterator[View]:
    """The tensors of Hugging Face files under canonical names, fused ones split."""
    held = list(stored)
    if _are_native((tensor.name for tensor in held), words):
        return native_named(held, words())
    if _has_own_names((tensor.name for tensor in held), words):
        return OWN_NAMES[words()["model_type"]](held, words())
    names = canonical_names((tensor.name for tensor in held), words)
    return (View(names[tensor.name], tensor) for tensor in held)


def native_named(stored: Iterable[Stored], fields: Mapping[str, Any]) -> Iterator[View]:
    """The tensors of a native model under canonical names; its fields give the sizes by which fused ones are split."""
    views = list(known_views(stored, native_views, native_shape(fields)))
    only_head = fields.get("weight_tying", True) and not any(view.name == EMBEDDING for view in views)
    return (replace(view, name=EMBEDDING) if only_head and view.name == HEAD else view for view in views)


def native_shape(words: Mapping[str, Any]) -> ModelShape | None:
    """The sizes in a native config, None if they are missing or impossible."""
    try:
        return ModelShape.of(canonical_sizes(words))
    except CheckpointError:
        return None


def stored_info(info: TensorInfo) -> Stored:
    """A tensor of a safetensors file as the source of views."""
    chunk = Chunk(Span(info.file, info.start, info.stop), info.shape, (0,) * len(info.shape))
    return Stored(info.name, info.dtype, info.shape, (chunk,))


def _are_native(names: Iterable[str], words: Words) -> bool:
    """True if hf_olmo wrote these names, by the config, or by a fused tensor where there is none."""
    native = [name for name in names if _NATIVE_BLOCK.search(name)]
    if not native:
        return False
    return is_native(words()) or (not words() and any(name.endswith(".att_proj.weight") for name in native))


def _has_own_names(names: Iterable[str], words: Words) -> bool:
    """True if the family has a way of its own to name tensors; the config is read only where a name hints at it."""
    return any(map(is_neox, names)) and words().get("model_type") in OWN_NAMES


def _unwrapped(name: str) -> str:
    for wrapper in _INSIDE:
        name = name.replace(wrapper, "")
    return name


def _prefix(names: Iterable[str]) -> str | None:
    """The text before `layers.N.`, if it is one and the same, and is not that of a language model or of an adapter."""
    prefixes = {found[1] for name in names if (found := _LAYERS.match(name))}
    if len(prefixes) != 1:
        return None
    [prefix] = prefixes
    return None if prefix == "model." or prefix.startswith(_ADAPTER) else prefix


def _of_language_model(names: list[str]) -> list[str]:
    """Names as the language model has them, whichever class of the family was saved, and under whichever prefix."""
    prefix = _prefix(names)
    if prefix is None:
        return names
    if prefix.endswith(".model."):
        return [name.removeprefix(prefix.removesuffix("model.")) for name in names]
    trunk = tuple(prefix + part for part in _TRUNK)
    return [f"model.{name.removeprefix(prefix)}" if name.startswith(trunk) else name for name in names]
