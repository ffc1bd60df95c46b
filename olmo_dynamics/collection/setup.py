"""A collection's setup: made from a first checkpoint, the same for every revision of the store.

>>> setup = make_setup(checkpoint, CollectOptions(record=("parameters",)), source="a folder")  # doctest: +SKIP
>>> setup.layout.axes["tensor"].labels  # doctest: +SKIP
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.axes import axes_of
from olmo_dynamics.collection.options import DTYPES, CollectOptions, parse_batch
from olmo_dynamics.collection.recorded_pass import pass_context
from olmo_dynamics.errors import OptionError, ProbeError, UnknownModelError
from olmo_dynamics.model import ModelConfig, check_shapes, parse_config, unknown_keys
from olmo_dynamics.names import FLOAT_DTYPES, TensorInfo
from olmo_dynamics.probes import Probe, load_probe
from olmo_dynamics.quantities import in_order
from olmo_dynamics.quantities.declaration import RECORDER, Group, Reads
from olmo_dynamics.recorders import Context, Recorder
from olmo_dynamics.recorders.facts import check_facts, facts_to_store, kept_bytes, own_probe
from olmo_dynamics.recorders.lookup import is_built_in, origin
from olmo_dynamics.store import Layout


@dataclass(frozen=True)
class CollectionSetup:
    """Facts and settings that hold for every revision of a store.

    Attributes:
        options: what was asked for.
        recorders: the prototypes of those that the model allows.
        tensors: the tensors that were chosen, of the first checkpoint.
        config: the model; None where its type is unknown.
        probe: the tokens of the forward pass; None where nothing needs them.
        layout: the axes and groups of the store.
        attributes: the root attributes of the store.
        tokenizer_id: of the tokenizer's file, where there is a probe of text.
        notes: lines for the user.
    """

    options: CollectOptions
    recorders: tuple[Recorder, ...]
    tensors: tuple[TensorInfo, ...]
    config: ModelConfig | None
    probe: Probe | None
    layout: Layout
    attributes: dict[str, Any]
    tokenizer_id: str = ""
    notes: tuple[str, ...] = ()

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The tensors that every revision must have."""
        return tuple(info.name for info in self.tensors)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups recorded."""
        return tuple(self.layout.groups)

    @property
    def context(self) -> Context:
        """The facts that recorders of weights are told."""
        return _context(self.config, self.probe, self.options.until)

    def recorders_of(self, groups: Collection[str], reads: Reads) -> tuple[Recorder, ...]:
        """The recorders of some groups that read one kind of values."""
        return tuple(
            each
            for each in self.recorders
            if each.reads is reads and any(group.name in groups for group in each.groups)
        )

    def started(self, groups: Collection[str]) -> tuple[Recorder, ...]:
        """The recorders of some groups, told the facts of a pass."""
        return tuple(
            each.start(self.context) for each in self.recorders if any(group.name in groups for group in each.groups)
        )

    def probe_shapes(self, groups: Collection[str]) -> tuple[tuple[int, int], ...]:
        """Sequences and positions of each probe that a forward pass for these groups reads."""
        of_forward = [each for each in self.started(groups) if each.reads is Reads.ACTIVATIONS]
        own = [probe for each in of_forward if (probe := own_probe(each)) is not None]
        read = [self.probe] if self.probe is not None and len(own) < len(of_forward) else []
        shapes = [probe.token_ids.shape for probe in (*read, *own)]
        return tuple((sequences, positions) for sequences, positions in shapes)

    def kept_bytes(self, groups: Collection[str]) -> int:
        """The most memory that the recorders of these groups hold."""
        return sum(kept_bytes(each) for each in self.started(groups))

    def measured(self, groups: Collection[str]) -> tuple[str, ...]:
        """The tensors that recorders of these groups read."""
        readers = self.recorders_of(groups, Reads.WEIGHTS)
        return tuple(info.name for info in self.tensors if any(each.selects(info) for each in readers))

    def with_column_sums(self, groups: Collection[str]) -> frozenset[str]:
        """The tensors of which a recorder of these groups needs sums by column."""
        readers = [each for each in self.recorders_of(groups, Reads.WEIGHTS) if each.column_sums]
        return frozenset(info.name for info in self.tensors if any(each.selects(info) for each in readers))

    @property
    def compute_dtype(self) -> torch.dtype:
        """The compute dtype of the forward pass."""
        return DTYPES[self.attributes["compute_dtype"]]


def make_setup(checkpoint: Checkpoint, options: CollectOptions, *, source: str) -> CollectionSetup:
    """Decide, from a first checkpoint, everything that will hold for all of them.

    Raises:
        OptionError: the model has nothing that was asked for.
        UnknownModelError: activations of an unknown model type were asked for.
        ProbeError: the probe cannot be read, or there is no tokenizer to read it with.
        ShapeError: the tensors contradict the config.
    """
    chosen = choose_tensors(checkpoint.tensors, options.tensors)
    config, notes = _known_config(checkpoint, options)
    recorders, left_out = _supported(options, config, chosen)
    probe = read_probe(checkpoint, options, config) if any(each.reads_probe for each in recorders) else None
    if config is not None:
        check_shapes(config, checkpoint.tensors)
    dtype = options.dtype
    if dtype == "auto":
        dtype = "bfloat16" if checkpoint.dtype == "BF16" else "float32"
    attributes = {
        "source": source,
        "model_type": checkpoint.config.get("model_type", "unknown"),
        "model_config": checkpoint.config,
        "compute_dtype": dtype,
        "probe": describe_probe(probe),
    }
    context = _context(config, probe, options.until)
    for recorder in recorders:
        check_facts(recorder.start(context))
    layout = Layout(axes_of(checkpoint, chosen, recorders, context), _groups(options, recorders, context))
    tokenizer = checkpoint.file_id("tokenizer.json") if probe and "tokenizer.json" in checkpoint.files else ""
    return CollectionSetup(
        options, recorders, tuple(chosen), config, probe, layout, attributes, tokenizer, (*notes, *left_out)
    )


def _context(config: ModelConfig | None, probe: Probe | None, until: int | None) -> Context:
    return Context(None, probe) if config is None else pass_context(config, probe, until)


def _known_config(checkpoint: Checkpoint, options: CollectOptions) -> tuple[ModelConfig | None, tuple[str, ...]]:
    """The model, None where its type is unknown and only weights are to be read, and notes on it."""
    try:
        config = parse_config(checkpoint.config)
    except UnknownModelError as error:
        if options.asked and options.needs_forward:
            raise
        return None, () if options.asked else (str(error),)
    _check_last_layer(config, options.until_layer)
    return config, _unknown_words(checkpoint)


def _supported(
    options: CollectOptions, config: ModelConfig | None, chosen: Sequence[TensorInfo]
) -> tuple[tuple[Recorder, ...], tuple[str, ...]]:
    """The recorders that the model allows, and a note for each other one that was asked for.

    Raises:
        OptionError: it allows none of them.
    """
    context = _context(config, None, options.until)
    lacking = {id(each): reason for each in options.recorders if (reason := _reason(each, context, chosen, options))}
    supported = tuple(each for each in options.recorders if id(each) not in lacking)
    notes = tuple(lacking.values())
    of_own = tuple(lacking[id(each)] for each in options.recorders if id(each) in lacking and not is_built_in(each))
    if not supported:
        raise OptionError(f"nothing to record: {'; '.join(notes)}; name other groups with record")
    return supported, notes if options.asked else of_own


def _reason(recorder: Recorder, context: Context, chosen: Sequence[TensorInfo], options: CollectOptions) -> str:
    """In words, what the model lacks for a recorder; empty where it lacks nothing."""
    name = recorder.group.name
    if recorder.reads is Reads.WEIGHTS:
        if context.config is None and recorder.needs_probe and not options.asked:
            return f"{name} is not recorded: the model type is unknown"
        return "" if any(map(recorder.selects, chosen)) else f"{name} is not recorded: no chosen tensor is of its kind"
    if context.config is None:
        return f"{name} is not recorded: the model type is unknown"
    if recorder.sites_in(context.sites):
        return ""
    absent = sorted(site.value for site in recorder.sites if site not in context.sites)
    return f"{name} is not recorded: {context.config.model_type} has no {', '.join(absent)}"


def _groups(options: CollectOptions, recorders: Iterable[Recorder], context: Context) -> list[Group]:
    """The groups to record, with the facts that the store keeps of each."""
    groups = []
    for recorder in recorders:
        attributes = facts_to_store(recorder.start(context))
        if not is_built_in(recorder):
            attributes[RECORDER] = origin(recorder)
        groups += [replace(each, attributes=attributes) for each in recorder.groups if each.name in options.groups]
    by_name = {group.name: group for group in groups}
    return [by_name[name] for name in in_order(by_name)]


def _check_last_layer(config: ModelConfig, last: int | None) -> None:
    if last is not None and last >= config.layers:
        raise OptionError(f"until_layer must be at most {config.layers - 1}, the model's last layer; got {last}")


def _unknown_words(checkpoint: Checkpoint) -> tuple[str, ...]:
    unknown = unknown_keys(checkpoint.config)
    if not unknown:
        return ()
    words = f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}"
    return (f"{checkpoint.revision.name}: unknown config keys {words}; assumed to have no effect",)


def choose_tensors(tensors: dict[str, TensorInfo], patterns: Sequence[str]) -> list[TensorInfo]:
    """The measurable tensors that match some pattern (a glob of the name, or a role); all of them without a pattern."""
    measurable = [info for info in tensors.values() if info.dtype in FLOAT_DTYPES and info.size]
    if not patterns:
        return measurable
    chosen = [
        info
        for info in measurable
        if any(fnmatch.fnmatchcase(info.name, pattern) or info.role == pattern for pattern in patterns)
    ]
    if not chosen:
        roles = ", ".join(sorted({info.role for info in measurable}))
        raise OptionError(f"no tensor is called {' or '.join(patterns)}; give a glob of names or a role: {roles}")
    return chosen


def read_probe(checkpoint: Checkpoint, options: CollectOptions, config: ModelConfig | None) -> Probe:
    """The probe, through this revision's own tokenizer."""
    has_tokenizer = "tokenizer.json" in checkpoint.files
    if not has_tokenizer and options.tokens is None:
        raise ProbeError(
            f"{checkpoint.revision.name} has no tokenizer.json to read the probe text with; "
            "give token ids with --tokens FILE.npy, or --record parameters"
        )
    vocab_size = config.vocab_size if config else int(checkpoint.config.get("vocab_size", np.iinfo(np.int64).max))
    return load_probe(
        checkpoint.read_file("tokenizer.json") if has_tokenizer else None,
        text=tuple(Path(each) for each in options.text),
        tokens=Path(options.tokens) if options.tokens is not None else None,
        batch=parse_batch(options.batch),
        vocab_size=vocab_size,
    )


def describe_probe(probe: Probe | None) -> dict[str, Any]:
    """The probe in the store's attributes."""
    if probe is None:
        return {}
    domains = {
        name: {"sequences": int((probe.domain == index).sum()), "tokens": int(probe.mask[probe.domain == index].sum())}
        for index, name in enumerate(probe.domains)
    }
    return {
        "sha256": probe.sha256,
        "shape": list(probe.shape),
        "tokens": int(probe.token_count),
        "tokenizer_sha256": probe.tokenizer_sha256,
        "tokenizer_size": int(probe.tokenizer_size),
        "domains": domains,
    }
