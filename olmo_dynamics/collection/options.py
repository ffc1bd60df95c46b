"""Options of a collection: which measurements, of which tensors, over which probe, computed where and in what.

>>> CollectOptions(record=("parameters",)).needs_forward
False
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

import torch

from olmo_dynamics.collection.computing import check_place
from olmo_dynamics.collection.limits import Limits
from olmo_dynamics.errors import OptionError, reject_unknown
from olmo_dynamics.probes.counting import CountsFile
from olmo_dynamics.probes.tasks import read_tasks
from olmo_dynamics.probes.token_sources import DTYPES as TOKEN_DTYPES
from olmo_dynamics.quantities.declaration import Reads
from olmo_dynamics.recorders import Recorder, find_recorders
from olmo_dynamics.recorders.inside.ngram_source import NgramSource
from olmo_dynamics.recorders.lookup import Recordable, built_in_groups, is_built_in
from olmo_dynamics.recorders.recorder_options import ALL, OPTIONS, with_options
from olmo_dynamics.recorders.tasks.task_source import TaskSource

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
"""Compute dtypes of the forward pass."""


class ProbeKeywords(TypedDict, total=False):
    """Keyword options of everything that reads text with a model; see `CollectOptions`, and `Limits` for the threads."""

    text: Collection[str | Path] | str | Path
    tokens: Collection[str | Path] | str | Path | None
    tokens_dtype: str | None
    tokenizer: str | Path | None
    batch: str | tuple[int, int] | None
    device: str
    dtype: str
    threads: int | None


class PassKeywords(ProbeKeywords, total=False):
    """The same of everything that fetches ahead; see `Limits`."""

    max_memory: int | str
    max_rate: float | str | None


class CollectKeywords(PassKeywords, total=False):
    """Further keyword options of `collect` and `plan`; see `CollectOptions`, and `Limits` for the last."""

    record: Collection[Recordable] | str
    tensors: Collection[str] | str
    verify: bool
    until_layer: int | None
    back_fill: bool
    sketch_size: int | None
    spectra: str | None
    lens_tokens: int | None
    counts: str | Path | None
    gram_tokens: int | None
    gram_sites: str | Collection[str] | None
    tasks: Collection[str | Path] | str | Path | None
    engine: str
    address: str | None
    shard: str


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """Measurement options.

    Attributes:
        record: groups by name (`parameters`, `activations`, …), recorders of your own (a class, an object, or
            `package.module:Class`), or `all`; empty means all built-in groups that the model allows. A text is one name or
            several with commas between them.
        tensors: globs of tensor names, or roles such as `q_norm`, as a list or a text with commas; empty means every tensor.
            For recorders of weights, and of an optimiser's state, only.
        text: probe files, one domain each, or the path of one; empty means the text that ships with the package.
        tokens: files of token ids instead of text, one domain each: with a NumPy header, or bare as OLMo publishes them (paths or
            http addresses).
        tokens_dtype: the dtype of bare token files, `uint16` or `uint32`. None: by the vocabulary's size, as the trainers do.
        tokenizer: a tokenizer.json, or a repo that has one, for revisions without; used in place of those that have one.
        batch: `BxT` or a pair: at most B windows of T tokens, no more than the model has positions. None: all of the probe in
            windows of 512, or of as many tokens as the model has positions.
        device: where the forward pass runs, `cpu` or `cuda`.
        dtype: the compute dtype: `float32`, `bfloat16`, `float64`, or `auto`: that of the store to be continued, else float32
            on the CPU and bfloat16 on a GPU, whatever the weights are stored in.
        verify: compare each revision's forward pass with transformers' before recording it; the weights are
            read once more for that.
        until_layer: the last layer of the forward pass; nothing of those behind it is read for it. None: all, and the head.
        back_fill: measure the quantities that a store's groups lack, of its finished revisions too.
        sketch_size: components of a sketch, a multiple of 64, for the groups `sketches` and `optimizer`; 1024 unless given.
        spectra: singular values to find of large matrices, for the group `spectra`: `norm`, the largest (the default), `top`, the
            32 largest, or `full`, all.
        lens_tokens: tokens that the lens looks at, at least 512, for the groups `lens` and `writes`; 512 unless given.
        counts: for the group `ngram`: an .npz of counts (`unigram` [V], `pair` [M, 2], `count` [M]), or a file of token ids to
            count (a path or an http address), which must not be the probe.
        gram_tokens: the most tokens of the sample of the group `representations`, at least 4; 2,048 unless given.
        gram_sites: sites whose representations are measured, as a list or a text with commas; `residual_out` unless given.
        tasks: for the group `evaluation`: files of JSON lines, or names of tasks that ship with the package, or one of them.
        engine: `local`, this process, or `ray`, the workers of a Ray cluster, one revision at a time each.
        address: of the Ray cluster, such as `10.0.0.1:6379`. None: RAY_ADDRESS, else the cluster that runs here, else one that is
            started for the time of the collection.
    """

    record: Collection[Recordable] | str = ()
    tensors: Collection[str] | str = ()
    text: Collection[str | Path] | str | Path = ()
    tokens: Collection[str | Path] | str | Path | None = None
    tokens_dtype: str | None = None
    tokenizer: str | Path | None = None
    batch: str | tuple[int, int] | None = None
    device: str = "cpu"
    dtype: str = "auto"
    verify: bool = False
    until_layer: int | None = None
    back_fill: bool = False
    sketch_size: int | None = None
    spectra: str | None = None
    lens_tokens: int | None = None
    counts: str | Path | None = None
    gram_tokens: int | None = None
    gram_sites: str | Collection[str] | None = None
    tasks: Collection[str | Path] | str | Path | None = None
    engine: str = "local"
    address: str | None = None
    recorders: tuple[Recorder, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", *DTYPES):
            raise OptionError(f"dtype must be auto, {', '.join(DTYPES)}; got {self.dtype!r}", option="dtype")
        if self.tokens_dtype not in (None, *TOKEN_DTYPES):
            raise OptionError(
                f"tokens_dtype must be {' or '.join(TOKEN_DTYPES)} (got {self.tokens_dtype!r})", option="tokens_dtype"
            )
        if self.until_layer is not None and self.until_layer < 0:
            raise OptionError(
                f"until_layer must be a layer, counted from 0; got {self.until_layer}", option="until_layer"
            )
        counted = None if self.counts is None else NgramSource(CountsFile(self.counts, self.tokens_dtype))
        options = {name: getattr(self, name) for name in OPTIONS}
        options |= {"counts": counted, "tasks": self._tasks()}
        object.__setattr__(self, "record", with_options(words(self.record), **options))
        object.__setattr__(self, "tensors", _patterns(self.tensors))
        object.__setattr__(self, "text", _paths("text", self.text))
        object.__setattr__(self, "tokens", _paths("tokens", self.tokens))
        if self.text and self.tokens:
            raise OptionError("give the probe as text files or as token files, not both")
        found = find_recorders(self._asked)
        for recorder in found:
            self._check(recorder)
        object.__setattr__(
            self, "recorders", tuple(each for each in found if not (each.lacks or self._lies_behind(each)))
        )
        check_place(self.engine, self.address, self.device)
        parse_batch(self.batch)

    @property
    def text_files(self) -> tuple[str | Path, ...]:
        """The files of a probe of text."""
        return _paths("text", self.text)

    @property
    def token_files(self) -> tuple[str | Path, ...]:
        """The files of a probe of token ids."""
        return _paths("tokens", self.tokens)

    @property
    def asked(self) -> bool:
        """True if groups or recorders were asked for, rather than all that the model has."""
        return bool(self.record) and ALL not in self.record

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups to record, of whichever the model has."""
        every = dict.fromkeys(group.name for recorder in self.recorders for group in recorder.groups)
        named = {*self.record, *(group.name for each in self.record if _is_recorder(each) for group in each.groups)}
        return tuple(name for name in every if not self.asked or name not in built_in_groups() or name in named)

    @property
    def until(self) -> int | None:
        """The number of blocks that the forward pass runs through; None for all, and the head."""
        return None if self.until_layer is None else self.until_layer + 1

    @property
    def needs_forward(self) -> bool:
        """True if some recorder needs a forward pass."""
        return any(each.reads in (Reads.ACTIVATIONS, Reads.GRADIENTS) for each in self.recorders)

    @property
    def reads_state(self) -> bool:
        """True if some recorder reads an optimiser's state."""
        return any(each.reads is Reads.OPTIMIZER for each in self.recorders)

    def _tasks(self) -> TaskSource | None:
        given = _paths("tasks", self.tasks)
        return TaskSource(read_tasks(given)) if given else None

    @property
    def _asked(self) -> list[Recordable]:
        if self.asked:
            return list(self.record)
        return [*built_in_groups(by_default=ALL not in self.record), *(each for each in self.record if each != ALL)]

    def _check(self, recorder: Recorder) -> None:
        if not self.asked and is_built_in(recorder):
            return
        names = {group.name for group in recorder.groups}
        name = next((each for each in self.record if each in names), recorder.group.name)
        if recorder.lacks:
            raise OptionError(f"{name} {recorder.lacks}")
        if self._lies_behind(recorder):
            raise OptionError(
                f"{name} needs the whole forward pass, which is to end after layer {self.until_layer}; leave one out"
            )

    def _lies_behind(self, recorder: Recorder) -> bool:
        """True if a pass that stops early reaches none of the recorder's sites, or not all that it needs, as gradients do."""
        if self.until_layer is None or recorder.reads is Reads.GRADIENTS:
            return self.until_layer is not None
        if not recorder.sites:
            return False
        return recorder.needs_whole_pass or all(each.after_blocks for each in recorder.sites)


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
        raise OptionError(
            f"batch must be BxT such as 8x512 (windows x tokens, T at least 2); got {batch!r}", option="batch"
        )
    windows, length = int(parts[0]), int(parts[1])
    if length < 2:
        raise OptionError(
            f"batch must be BxT with T at least 2, since a window's first token is not scored; got {batch!r}",
            option="batch",
        )
    return windows, length


def words(record: Collection[Recordable] | str) -> tuple[Recordable, ...]:
    """Names and recorders; text is split at its commas."""
    if isinstance(record, str):
        return split_words(record)
    if not isinstance(record, Iterable):
        raise OptionError(f"record must be a list of groups and recorders, such as ['loss', Mine]; got {record!r}")
    return tuple(record)


def _is_recorder(given: Recordable) -> TypeGuard[Recorder]:
    return isinstance(given, Recorder)


def split_words(text: str) -> tuple[str, ...]:
    """The words of a text with commas between them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _patterns(tensors: Collection[str] | str) -> tuple[str, ...]:
    given = split_words(tensors) if isinstance(tensors, str) else _listed(tensors)
    if given is None or not all(isinstance(each, str) for each in given):
        raise OptionError(f"tensors must be globs or roles, such as ['q_norm', '*.mlp.*']; got {tensors!r}")
    return given


def _paths(name: str, files: Collection[str | Path] | str | Path | None) -> tuple[str | Path, ...]:
    given = (files,) if isinstance(files, str | Path) else _listed(() if files is None else files)
    if given is None or not all(isinstance(each, str | Path) for each in given):
        raise OptionError(f"{name} must be the path of a file, or a list of them; got {files!r}")
    return given


def _listed(given: object) -> tuple[Any, ...] | None:
    return tuple(given) if isinstance(given, Iterable) else None
