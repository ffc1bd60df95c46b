"""Whether `torch.compile` pays, and training without it where it cannot work.

One block is compiled and serves all layers, since all look alike; the head has its own loop, and experts are chosen by what
the tokens are, which no compiler foresees.

    >>> run = compiled(run_block, model) if pays(model, tokens=50_000_000) else None                # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from olmo_dynamics.model import LanguageModel

_LOG = logging.getLogger(__name__)

SECONDS = 20.0
"""What compiling a block's forward and backward pass costs."""

SAVED = {"cpu": 1e-12, "cuda": 1e-15}
"""Seconds that compiling saves of a floating-point operation: on a CPU as measured, of two cores; on a GPU as supposed."""

Run = TypeVar("Run", bound=Callable[..., object])


def pays(model: LanguageModel, tokens: int) -> bool:
    """Whether `6 · parameters · tokens` operations are enough to win back twice the compilation."""
    device = next(model.parameters()).device.type
    operations = 6 * sum(parameter.numel() for parameter in model.parameters()) * tokens
    return model.config.experts is None and operations * SAVED.get(device, 0.0) > 2 * SECONDS


def compiled(run: Run, model: LanguageModel) -> Run | None:
    """`run`, compiled; None, with a note, where the model or the machine does not allow it."""
    if model.config.experts is not None:
        _LOG.warning("a model with experts is not compiled: training goes on without")
        return None
    device = next(model.parameters()).device
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except RuntimeError as error:  # what torch raises for a missing compiler, its headers, or Triton
        reason = str(error).strip().splitlines()[0]
        _LOG.warning("torch.compile needs a working compiler; got %s: training goes on without", reason)
        return None
    faster: Run = torch.compile(run)  # type: ignore[assignment]
    return faster


def _trial(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + x
