"""What the user asked to be measured.

>>> Measurement(record=("parameters",)).wants_forward
False
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

import torch

from olmo_dynamics import quantities
from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.errors import OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
"""What the forward pass may be computed in."""

_AFTER_THE_LAST_LAYER = ("logits", "loss", "tokens")


class Options(TypedDict, total=False):
    """Keyword options of `collect` and `plan`; see `Measurement`, and `Limits` for the last four."""

    record: Collection[str]
    tensors: Sequence[str]
    text: Sequence[str | Path]
    tokens: str | Path | None
    batch: str | tuple[int, int] | None
    device: str
    dtype: str
    verify: bool
    until_layer: int | None
    max_memory: int | str
    max_rate: float | str | None
    threads: int | None
    shard: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """What to measure, and how.

    Attributes:
        record: names of groups (`parameters`, `activations`, …); empty means all that the model allows.
        tensors: globs of tensor names, or roles such as `q_norm`; empty means every tensor. Parameter groups only.
        text: probe files, one domain each; empty means the text that ships with the package.
        tokens: a .npy file of token ids instead of text.
        batch: `BxT` or a pair: at most B windows of T tokens. None: all of the probe in windows of 512.
        device: where the forward pass runs, `cpu` or `cuda`.
        dtype: what it is computed in: `float32`, `bfloat16`, `float64`, or `auto`: bfloat16 for weights stored so,
            else float32.
        verify: compare each revision's forward pass with transformers' before recording it; the weights are
            read once more for that.
        until_layer: the last layer of the forward pass; nothing of those behind it is read for it. None: all, and the head.
    """

    record: Collection[str] = ()
    tensors: Sequence[str] = ()
    text: Sequence[str | Path] = ()
    tokens: str | Path | None = None
    batch: str | tuple[int, int] | None = None
    device: str = "cpu"
    dtype: str = "auto"
    verify: bool = False
    until_layer: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.record if name not in quantities.GROUPS]
        if unknown:
            raise OptionError(f"no group {unknown[0]!r} to record; there are {', '.join(quantities.GROUPS)}")
        if self.dtype not in ("auto", *DTYPES):
            raise OptionError(f"dtype must be auto, {', '.join(DTYPES)}; got {self.dtype!r}")
        if self.text and self.tokens is not None:
            raise OptionError("give the probe as text files or as a token file, not both")
        if self.until_layer is not None and self.until_layer < 0:
            raise OptionError(f"until_layer must be a layer, counted from 0; got {self.until_layer}")
        beyond = [name for name in self.record if name in _AFTER_THE_LAST_LAYER]
        if self.until_layer is not None and beyond:
            raise OptionError(
                f"{beyond[0]} needs the whole forward pass, which is to end after layer {self.until_layer}; leave one out"
            )
        _check_device(self.device)
        parse_batch(self.batch)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups to record, of whichever the model has."""
        wanted = [name for name in quantities.GROUPS if not self.record or name in self.record]
        return tuple(name for name in wanted if self.until_layer is None or name not in _AFTER_THE_LAST_LAYER)

    @property
    def until(self) -> int | None:
        """How many blocks the forward pass runs through; None for all, and the head."""
        return None if self.until_layer is None else self.until_layer + 1

    @property
    def wants_forward(self) -> bool:
        """Whether anything asked for needs a forward pass."""
        return any(name not in quantities.PARAMETER_GROUPS for name in self.groups)


def settle(options: Options) -> tuple[Measurement, Limits]:
    """What to measure, and what it may take, from one set of keywords.

    Raises:
        OptionError: one of them cannot mean anything.
    """
    names = {each.name for each in fields(Limits)}
    given: dict[str, Any] = dict(options)
    limits = Limits(**{name: given.pop(name) for name in names & given.keys()})
    return Measurement(**given), limits


def parse_batch(batch: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """`8x512` as (8, 512)."""
    if batch is None:
        return None
    parts = batch.lower().split("x") if isinstance(batch, str) else [str(part) for part in batch]
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise OptionError(f"batch must be BxT such as 8x512 (windows x tokens, T at least 2); got {batch!r}")
    windows, length = int(parts[0]), int(parts[1])
    if length < 2:
        raise OptionError(
            f"batch must be BxT with T at least 2, since a window's first token is not scored; got {batch!r}"
        )
    return windows, length


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise OptionError(f"device must be cpu, cuda or cuda:N; got {device!r}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device {device!r} was asked for, but torch sees no CUDA GPU here; use --device cpu")
