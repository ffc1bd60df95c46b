"""Keyword options of a fork for editors and type checkers: the names and types of `ForkOptions`, equal by a test.

>>> changes: ForkKeywords = {"lr": 1e-4, "schedule": "linear"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


class ForkKeywords(TypedDict, total=False):
    """Keyword options of a fork; see `ForkOptions`."""

    order: str
    batch: tuple[int, int] | None
    batch_warmup: tuple[tuple[int, int], ...]
    mask_documents: bool | None
    mask_repeated_ngrams: bool | None
    seed: int | None
    data_dtype: str | None
    tokenizer: str | None
    moments: str | None
    lr: float | None
    peak_lr: float | None
    schedule: str | None
    warmup: int | None
    decay_steps: int | None
    decay_share: float | None
    decay_shape: str | None
    batch_lr: str
    betas: tuple[float, float] | None
    eps: float | None
    weight_decay: float | None
    decay: tuple[str, ...]
    no_decay: tuple[str, ...]
    clip: float | None
    z_loss: float | None
    balance_loss: float | None
    router_z_loss: float | None
    skip_spikes: bool | None
    freeze: tuple[str, ...]
    scale: tuple[str, ...]
    zero: tuple[str, ...]
    zero_feature: tuple[int, ...]
    edit: Callable[[str, Tensor], Tensor] | None
    dtype: str | None
    micro_batch: int | None
    activation_checkpointing: bool | None
    compile: bool | None
    device: str | None
    workers: int | None
    eval: tuple[str, ...]
    eval_every: int
    save: tuple[int, ...] | None
    parent_loss: float | None
    accept_loss_jump: bool
    keep: int | None
