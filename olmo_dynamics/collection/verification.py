"""Conformance: a revision's own forward pass, beside transformers' of the same weights, before anything is recorded.

>>> verify(checkpoint, token_ids)  # doctest: +SKIP

Both models are built from the bytes that are about to be measured, in float32, and read a few probe tokens. The residual
stream after every block and the logits must agree; where they do not, the error says by how much and where it begins.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.errors import ConformanceError, OptionError
from olmo_dynamics.model import (
    ModelConfig,
    build_model,
    expected_shapes,
    family_of,
    find_tap,
    load_model_weights,
    resolve_config,
    to_tensor,
)
from olmo_dynamics.names import Site

TOLERANCE = 1e-4
"""Largest relative difference, in L2 norm over all tokens and features, that float32 rounding may explain."""

TOKENS = 32
"""Probe tokens that are compared."""

_LOGITS = "in the logits"

_COPIES = 2.5  # ours, theirs, and room for the pass


def verify(checkpoint: Checkpoint, token_ids: Int[Tensor, "batch positions"]) -> str:
    """Compare our forward pass with transformers'; returns "" if they agree, or why they were not compared.

    Raises:
        ConformanceError: they disagree.
        OptionError: transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise OptionError("--verify needs transformers; pip install 'olmo-dynamics[notebooks]'")
    family = family_of(checkpoint.config.get("model_type"))
    if not _in_transformers(family.architecture):
        return f"{checkpoint.revision.name} is not verified: transformers has no {family.architecture}"
    needed = int(sum(info.size for info in checkpoint.tensors.values()) * 4 * _COPIES)
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        return f"{checkpoint.revision.name} is not verified: that takes {needed / 1e9:.0f} GB, {available / 1e9:.0f} are free"
    raw = checkpoint.read_many(list(checkpoint.tensors.values()))
    weights = {name: to_tensor(raw[name], info).float() for name, info in checkpoint.tensors.items()}
    config = resolve_config(checkpoint.config, checkpoint.tensors, checkpoint.read_many)
    ours = _our_states(config, weights, token_ids)
    published = family.publish(config, {name: weights[name] for name in expected_shapes(config)})
    theirs = _their_states(checkpoint.config, published, token_ids)
    if not config.has_head:
        del theirs[_LOGITS]  # of a head that transformers draws at random
    for place, state in theirs.items():
        difference = _relative_difference(ours[place], state)
        if difference > TOLERANCE:
            raise ConformanceError(
                f"{checkpoint.revision.name} is not recorded: our forward pass differs from transformers' by "
                f"{difference:.1e} (relative, {TOLERANCE:g} allowed), first {place}"
            )
    return ""


def _in_transformers(architecture: str) -> bool:
    import transformers

    return hasattr(transformers, architecture)


def _relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """The L2 norm of what differs over that of theirs; NaN and Inf are no difference where both have the same."""
    if not torch.equal(torch.isfinite(ours), torch.isfinite(theirs)):
        return float("inf")
    ours, theirs = (torch.nan_to_num(each.double(), nan=0.0, posinf=0.0, neginf=0.0) for each in (ours, theirs))
    difference = float((ours - theirs).norm())
    return difference / float(theirs.norm()) if difference else 0.0


States = dict[str, Float[Tensor, "batch positions width"]]


@torch.no_grad()
def _our_states(config: ModelConfig, weights: Mapping[str, Tensor], token_ids: Tensor) -> States:
    model = build_model(config, device="meta")
    load_model_weights(model, {name: weights[name] for name in model.state_dict()})
    modules = {_after(layer): find_tap(model, Site.RESIDUAL_OUT, layer) for layer in range(config.layers)}
    with _reading({"after the embedding": find_tap(model, Site.EMBEDDING), **modules}) as states:
        if config.has_head:
            states[_LOGITS] = model(token_ids)
        else:
            model.hidden(token_ids)
    return states


@torch.no_grad()
def _their_states(config: Mapping[str, Any], weights: Mapping[str, Tensor], token_ids: Tensor) -> States:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        words = AutoConfig.for_model(**config)
        kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(words)]
        model = kind.from_pretrained(None, config=words, state_dict=dict(weights), dtype=torch.float32)
    finally:
        if shown:
            bars.enable_progress_bar()
    modules = {_after(layer): block for layer, block in enumerate(model.base_model.layers)}
    with _reading({"after the embedding": model.get_input_embeddings(), **modules}) as states:
        states[_LOGITS] = model.eval()(token_ids).logits
    return states


def _after(layer: int) -> str:
    return f"after layer {layer}"


@contextmanager
def _reading(modules: Mapping[str, nn.Module]) -> Iterator[States]:
    """The outputs of the modules while the context lasts, by place, in order."""
    states: States = {}

    def keep(place: str, output: Tensor | tuple[Tensor, ...]) -> None:
        states[place] = output[0] if isinstance(output, tuple) else output

    handles = [
        module.register_forward_hook(lambda module, inputs, output, place=place: keep(place, output))
        for place, module in modules.items()
    ]
    yield states
    for handle in handles:
        handle.remove()
