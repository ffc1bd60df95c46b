"""`torch.compile` of a block, where it saves more than it costs, and training without it where it cannot work.

One block is compiled and serves all layers, since all are alike; the head has its own loop, and experts are chosen by the
tokens, so that a model with experts is not compiled.

    >>> run = try_compile(run_block, model) if is_worth_compiling(model, tokens=50_000_000) else None  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar, cast

import torch

from olmo_dynamics.model import LanguageModel

_LOG = logging.getLogger(__name__)

SECONDS = 20.0
"""Time that compiling a block's forward and backward pass takes."""

SAVED = {"cpu": 1e-12, "cuda": 1e-15}
"""Seconds saved per floating-point operation: on a CPU measured with two cores; on a GPU an assumption."""

OPTIONS: dict[str, dict[str, str | int | bool | Callable[..., object]]] = {"cpu": {"cpp_wrapper": True}}
"""Generated C++ that calls its kernels itself: called from Python, each would keep other workers from running meanwhile."""

Run = TypeVar("Run", bound=Callable[..., object])


def is_worth_compiling(model: LanguageModel, tokens: int) -> bool:
    """True if compiling saves at least twice its own time in `6 · parameters · tokens` operations."""
    device = next(model.parameters()).device.type
    operations = 6 * sum(parameter.numel() for parameter in model.parameters()) * tokens
    return model.config.experts is None and operations * SAVED.get(device, 0.0) > 2 * SECONDS


def try_compile(run: Run, model: LanguageModel) -> Run | None:
    """Compile `run`; return None, with a warning, if the model or the machine does not allow it."""
    if model.config.experts is not None:
        _LOG.warning("a model with experts cannot be compiled: training continues without torch.compile")
        return None
    device = next(model.parameters()).device
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except RuntimeError as error:  # a missing compiler, its headers, or Triton
        reason = str(error).strip().splitlines()[0]
        _LOG.warning(
            "torch.compile needs a working compiler (got %s): training continues without torch.compile", reason
        )
        return None
    return cast(Run, torch.compile(run, options=OPTIONS.get(device.type)))


def _trial(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x
