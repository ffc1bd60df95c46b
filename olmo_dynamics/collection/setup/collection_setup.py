"""A collection's setup: the facts and settings that hold for every revision of a store.

>>> setup = make_setup(checkpoint, CollectOptions(record=("parameters",)), source="a folder")  # doctest: +SKIP
>>> setup.layout.axes["tensor"].labels  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch

from olmo_dynamics.collection.options import DTYPES, CollectOptions
from olmo_dynamics.collection.recorded_pass import pass_context
from olmo_dynamics.collection.setup.held import ELEMENT_COUNT
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.probes import Probe
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.quantities.declaration import Reads
from olmo_dynamics.recorders import Context, Recorder
from olmo_dynamics.recorders.facts import kept_bytes, own_probe
from olmo_dynamics.store import Layout


@dataclass(frozen=True)
class CollectionSetup:
    """Facts and settings that hold for every revision of a store.

    Attributes:
        options: what was asked for.
        recorders: the prototypes of those that the model allows.
        tensors: the tensors that were chosen, of the revision that the store is laid out for.
        config: that revision's model; None where only weights are measured, and its config does not describe them.
        probe: the tokens of the forward pass; None where nothing needs them.
        layout: the axes and groups of the store.
        attributes: the root attributes of the store.
        optimizer: the name of the optimiser whose state is read; empty where none is.
        tokenizer_id: of the tokenizer's file, where there is a text to read.
        tokenizer: the tokenizer, where a recorder needs it.
        notes: lines for the user.
    """

    options: CollectOptions
    recorders: tuple[Recorder, ...]
    tensors: tuple[TensorInfo, ...]
    config: ModelConfig | None
    probe: Probe | None
    layout: Layout
    attributes: dict[str, Any]
    optimizer: str = ""
    tokenizer_id: str = ""
    tokenizer: ProbeTokenizer | None = None
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
        """The facts that recorders are told of the revision that the store is laid out for."""
        return self.context_of(self.config)

    def context_of(self, config: ModelConfig | None) -> Context:
        """The facts that recorders are told of a revision with this model."""
        return context_of(config, self.probe, self.options.until, self.optimizer, self.tokenizer)

    def recorders_of(self, groups: Collection[str], reads: Reads) -> tuple[Recorder, ...]:
        """The recorders of some groups that read one kind of values."""
        return tuple(
            each
            for each in self.recorders
            if each.reads is reads and any(group.name in groups for group in each.groups)
        )

    def runs_model(self, groups: Collection[str]) -> bool:
        """True if these groups need a forward pass."""
        return any(self.recorders_of(groups, reads) for reads in (Reads.ACTIVATIONS, Reads.GRADIENTS))

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

    def token_counts(self, groups: Collection[str]) -> dict[str, int]:
        """The tokens, padding included, that a revision's passes for these groups read: of the probe, and of groups' own."""
        counts: dict[str, int] = {}
        for each in self.started(groups):
            reads_model = each.reads in (Reads.ACTIVATIONS, Reads.GRADIENTS)
            own = own_probe(each) if reads_model else None
            if own is not None:
                counts[each.group.name] = own.token_ids.size
            elif reads_model and self.probe is not None:
                counts["the probe"] = self.probe.token_ids.size
        return counts

    def kept_bytes(self, groups: Collection[str]) -> int:
        """The most memory that the recorders of these groups hold."""
        return sum(kept_bytes(each) for each in self.started(groups))

    def measured(self, groups: Collection[str], reads: Reads = Reads.WEIGHTS) -> tuple[str, ...]:
        """The tensors of which recorders of these groups read the weights, or the optimiser's state."""
        readers = self.recorders_of(groups, reads)
        return tuple(info.name for info in self.tensors if any(each.selects(info) for each in readers))

    def with_column_sums(self, groups: Collection[str]) -> frozenset[str]:
        """The tensors of which a recorder of these groups needs sums by column."""
        readers = [each for each in self.recorders_of(groups, Reads.WEIGHTS) if each.column_sums]
        return frozenset(info.name for info in self.tensors if any(each.selects(info) for each in readers))

    @property
    def has_positions(self) -> bool:
        """True if the model has positions for the probe's windows, as for all but those of some older stores."""
        return self.config is None or self.probe is None or self.probe.shape[1] <= self.config.max_positions

    @property
    def sizes_along_tensor(self) -> bool:
        """True if the store keeps one element count for each tensor, as older ones do, rather than one for each revision."""
        return ELEMENT_COUNT in self.layout.axes["tensor"].coordinates

    @property
    def compute_dtype(self) -> torch.dtype:
        """The compute dtype of the forward pass."""
        return DTYPES[self.attributes["compute_dtype"]]


def context_of(
    config: ModelConfig | None,
    probe: Probe | None,
    until: int | None,
    optimizer: str = "",
    tokenizer: ProbeTokenizer | None = None,
) -> Context:
    """The facts of a pass; of weights alone where the model is unknown."""
    found = Context(None, probe) if config is None else pass_context(config, probe, until)
    return replace(found, optimizer=optimizer, tokenizer=tokenizer)
