"""Options of a collection: which measurements, of which tensors, over which probe, computed where and in what.

>>> CollectOptions(record=("parameters",)).needs_forward
False
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

import torch

from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.errors import OptionError, reject_unknown
from olmo_dynamics.quantities.declaration import Reads
from olmo_dynamics.recorders import Recorder, find_recorders
from olmo_dynamics.recorders.lookup import Recordable, built_in_groups, is_built_in

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
"""Compute dtypes of the forward pass."""

ALL = "all"
"""The name, in place of a group's, of every built-in group that the model has."""

_MEASURED = (Reads.WEIGHTS, Reads.ACTIVATIONS)


class CollectKeywords(TypedDict, total=False):
    """Keyword options of `collect` and `plan`; see `CollectOptions`, and `Limits` for the last four."""

    record: Collection[Recordable] | str
    tensors: Sequence[str]
    text: Sequence[str | Path]
    tokens: str | Path | None
    batch: str | tuple[int, int] | None
    device: str
    dtype: str
    verify: bool
    until_layer: int | None
    back_fill: bool
    max_memory: int | str
    max_rate: float | str | None
    threads: int | None
    shard: str


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """Measurement options.

    Attributes:
        record: groups by name (`parameters`, `activations`, …), recorders of your own (a class, an object, or
            `package.module:Class`), or `all`; empty means all built-in groups that the model allows.
        tensors: globs of tensor names, or roles such as `q_norm`; empty means every tensor. For recorders of weights only.
        text: probe files, one domain each; empty means the text that ships with the package.
        tokens: a .npy file of token ids instead of text.
        batch: `BxT` or a pair: at most B windows of T tokens. None: all of the probe in windows of 512.
        device: where the forward pass runs, `cpu` or `cuda`.
        dtype: the compute dtype: `float32`, `bfloat16`, `float64`, or `auto`: bfloat16 for weights stored so,
            else float32.
        verify: compare each revision's forward pass with transformers' before recording it; the weights are
            read once more for that.
        until_layer: the last layer of the forward pass; nothing of those behind it is read for it. None: all, and the head.
        back_fill: measure the quantities that a store's groups lack, of its finished revisions too.
    """

    record: Collection[Recordable] | str = ()
    tensors: Sequence[str] = ()
    text: Sequence[str | Path] = ()
    tokens: str | Path | None = None
    batch: str | tuple[int, int] | None = None
    device: str = "cpu"
    dtype: str = "auto"
    verify: bool = False
    until_layer: int | None = None
    back_fill: bool = False
    recorders: tuple[Recorder, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", *DTYPES):
            raise OptionError(f"dtype must be auto, {', '.join(DTYPES)}; got {self.dtype!r}")
        if self.text and self.tokens is not None:
            raise OptionError("give the probe as text files or as a token file, not both")
        if self.until_layer is not None and self.until_layer < 0:
            raise OptionError(f"until_layer must be a layer, counted from 0; got {self.until_layer}")
        object.__setattr__(self, "record", words(self.record))
        found = find_recorders(self._asked)
        for recorder in found:
            self._check(recorder)
        object.__setattr__(self, "recorders", tuple(each for each in found if not self._lies_behind(each)))
        _check_device(self.device)
        parse_batch(self.batch)

    @property
    def asked(self) -> bool:
        """True if groups or recorders were asked for, rather than all that the model has."""
        return bool(self.record) and ALL not in self.record

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups to record, of whichever the model has."""
        every = [group.name for recorder in self.recorders for group in recorder.groups]
        return tuple(name for name in every if not self.asked or name not in built_in_groups() or name in self.record)

    @property
    def until(self) -> int | None:
        """The number of blocks that the forward pass runs through; None for all, and the head."""
        return None if self.until_layer is None else self.until_layer + 1

    @property
    def needs_forward(self) -> bool:
        """True if some recorder needs a forward pass."""
        return any(each.reads is Reads.ACTIVATIONS for each in self.recorders)

    @property
    def _asked(self) -> list[Recordable]:
        if self.asked:
            return list(self.record)
        return [*built_in_groups(), *(each for each in self.record if each != ALL)]

    def _check(self, recorder: Recorder) -> None:
        if recorder.reads not in _MEASURED:
            raise OptionError(
                f"{type(recorder).__name__} reads {recorder.reads.value}, which a collection does not stream; "
                "record weights or activations"
            )
        if (self.asked or not is_built_in(recorder)) and self._lies_behind(recorder):
            names = {group.name for group in recorder.groups}
            name = next((each for each in self.record if each in names), recorder.group.name)
            raise OptionError(
                f"{name} needs the whole forward pass, which is to end after layer {self.until_layer}; leave one out"
            )

    def _lies_behind(self, recorder: Recorder) -> bool:
        """True if a pass that stops early reaches none of the recorder's sites."""
        return (
            self.until_layer is not None and bool(recorder.sites) and all(each.after_blocks for each in recorder.sites)
        )


def split_options(options: CollectKeywords) -> tuple[CollectOptions, Limits]:
    """Measurement options, and limits, from one set of keywords.

    Raises:
        OptionError: a keyword is unknown, or its value cannot be used.
    """
    reject_unknown(options, CollectKeywords.__annotations__)
    names = {each.name for each in fields(Limits)}
    given: dict[str, Any] = dict(options)
    limits = Limits(**{name: given.pop(name) for name in names & given.keys()})
    return CollectOptions(**given), limits


def parse_batch(batch: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """`8x512` as (8, 512).

    Raises:
        OptionError: it is not two numbers, or T is below 2.
    """
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


def words(record: Collection[Recordable] | str) -> tuple[Recordable, ...]:
    """Names and recorders; text is split at its commas."""
    if isinstance(record, str):
        return tuple(word.strip() for word in record.split(",") if word.strip())
    if not isinstance(record, Iterable):
        raise OptionError(f"record must be a list of groups and recorders, such as ['loss', Mine]; got {record!r}")
    return tuple(record)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise OptionError(f"device must be cpu, cuda or cuda:N; got {device!r}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device {device!r} needs a CUDA GPU, and torch sees none here; use --device cpu")
