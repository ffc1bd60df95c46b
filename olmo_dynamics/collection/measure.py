"""Measure one revision: each step's tensors as they come, then the forward pass over them.

>>> with Measurer(setup, threads=2) as measurer:  # doctest: +SKIP
...     records = measurer.records(stream, advance=print)

Every byte is read once and serves both the recorders of weights and its layer's forward pass, and is dropped after it. The
records do not depend on how many threads there are. Where the pass runs on a device of its own, one stage more is under way:
the next one's weights, if they have come, are copied there and their statistics taken while this one computes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.backward import RecordedBackward
from olmo_dynamics.collection.exclusion import exclusion_records
from olmo_dynamics.collection.fetch_plan import FetchPlan, Step
from olmo_dynamics.collection.prefetch import OpenRevision, RevisionStream
from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.model import Compute, Prepared, Stage, to_tensor
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities.declaration import Reads, Record
from olmo_dynamics.recorders import (
    Observation,
    RecorderSet,
    TensorStats,
    block_stats,
    complete,
    row_blocks,
    tensor_stats_on_device,
)

Raw = dict[str, np.ndarray]
Survey = Callable[[], TensorStats]
Show = Callable[[], Observation]


@dataclass(frozen=True)
class _Revision:
    """One revision under way; tensors that a later stage uses again are kept, so that no byte is read twice."""

    stream: RevisionStream
    tensors: RecorderSet
    forward: RecordedPass | None
    backward: RecordedBackward | None
    measured: frozenset[str]
    column_sums: frozenset[str]
    again: set[str]
    kept: Raw = field(default_factory=dict)

    def preparing(self, step: Step, raw: Raw) -> Callable[[], Prepared] | None:
        """A function that makes a step's stage ready, if it has one."""
        self.kept.update((name, arrived) for name, arrived in raw.items() if name in self.again)
        through = self.backward if step.again or self.forward is None else self.forward
        if through is None or step.stage is None:
            return None
        checkpoint = self.stream.opened.checkpoint
        return partial(through.prepare, step.stage, stage_weights(checkpoint, step.stage, self.kept | raw))

    def run(self, step: Step, prepared: Prepared, beside: Executor | None) -> list[Record]:
        """Carry the probe through a step's stage, forward or back; parts may be merged `beside` the next stage."""
        if step.again:
            return self.backward.run_back(prepared) if self.backward else []
        records = self.forward.run_prepared(prepared, beside) if self.forward else []
        if self.backward is not None:
            self.backward.run(prepared)
        return records

    def states(self, step: Step) -> list[Show]:
        """The optimiser's state of a step's tensors, when all of it has come."""
        state = self.stream.opened.state
        assert state is not None
        raws = {info.name: raw for info, raw in self.stream.tensors(step)}
        return [partial(state.observation, tensor, raws) for tensor in step.states]


@dataclass(frozen=True)
class _ReadyStep:
    """A step whose bytes have come: what recorders of tensors are shown of it, and its stage made ready."""

    shows: Sequence[Show]
    prepared: Callable[[], Prepared] | None


class Measurer:
    """Threads that measure, for as many revisions of a collection as come; `threads` is their number."""

    def __init__(self, setup: CollectionSetup, threads: int) -> None:
        self._setup = setup
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="olmo-dynamics-survey")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def records(self, stream: RevisionStream, advance: Callable[[int], None]) -> list[Record]:
        """Measure one revision; `advance` is told the bytes of each step.

        Raises:
            CheckpointError: the bytes contradict the headers, or the published hash.
        """
        opened, device = stream.opened, self._setup.options.device
        revision = self._revision(stream)
        records: list[Record] = []
        ahead: _ReadyStep | None = None
        for step, following in zip_longest(opened.fetch_plan.steps, opened.fetch_plan.steps[1:]):
            ready = ahead or self._ready(revision, step)
            look_ahead = following is not None and has_own_memory(device) and stream.has(following)
            ahead = self._ready(revision, following) if look_ahead else None
            for show in ready.shows:
                revision.tensors.observe(show())
            if ready.prepared is not None:
                records += revision.run(step, ready.prepared(), self._pool if self.threads > 1 else None)
            del ready
            opened.release([info for info in step.infos if info.name not in revision.again])
            advance(step.nbytes)
        excluded = exclusion_records(self._setup, opened.groups, opened.excluded)
        return [*records, *filter(self._has_place, revision.tensors.finish()), *excluded]

    def _has_place(self, record: Record) -> bool:
        """False for the features of a tensor on a stream of another width, as that of an image encoder beside the model."""
        if record.quantity.key != "parameters/residual_feature_l2":
            return True
        return np.size(record.values) == len(self._setup.layout.axes["feature"])

    def _revision(self, stream: RevisionStream) -> _Revision:
        opened, setup = stream.opened, self._setup
        return _Revision(
            stream,
            RecorderSet(
                setup.recorders, setup.context_of(opened.config), opened.groups, {Reads.WEIGHTS, Reads.OPTIMIZER}
            ),
            self._forward(opened),
            self._backward(opened),
            frozenset(setup.measured(opened.groups)) - opened.excluded,
            setup.with_column_sums(opened.groups),
            used_again(opened.fetch_plan),
        )

    def _ready(self, revision: _Revision, step: Step) -> _ReadyStep:
        """The bytes of a step; statistics of a tensor are taken while others come, a large one's rows by several threads.

        Weights that go to another device have theirs taken there, all by one thread, while the stage before computes.
        """
        if step.states:
            return _ReadyStep(revision.states(step), None)
        elsewhere = step.stage is not None and has_own_memory(self._setup.options.device)
        raw: Raw = {}
        shows: list[Show] = []
        for info, arrived in revision.stream.tensors(step):
            raw[info.name] = arrived
            if info.name in revision.measured and not elsewhere and not step.again:
                survey = self._survey_here(arrived, info, column_sums=info.name in revision.column_sums)
                shows.append(partial(_show_weights, info, arrived, survey))
        prepare = revision.preparing(step, raw)
        if prepare is None or not elsewhere:
            return _ReadyStep(shows, prepare)
        infos = [info for info in step.infos if info.name in revision.measured and not step.again]
        keeps_stored = revision.backward is not None and not step.again
        work = self._pool.submit(_prepare_and_survey, prepare, infos, revision.column_sums, keeps_stored)
        there = [partial(_show_weights, info, raw[info.name], partial(_survey_of, work, info)) for info in infos]
        return _ReadyStep(there, lambda: work.result()[0])

    def _survey_here(self, raw: np.ndarray, info: TensorInfo, *, column_sums: bool) -> Survey:
        work = partial(block_stats, raw, info, column_sums=column_sums)
        blocks = [self._pool.submit(work, rows) for rows in row_blocks(info)]
        return lambda: complete([block.result() for block in blocks], self._pool.map)

    def _forward(self, opened: OpenRevision) -> RecordedPass | None:
        if not self._setup.recorders_of(opened.groups, Reads.ACTIVATIONS):
            return None
        assert opened.config is not None
        options = self._setup.options
        return RecordedPass(
            opened.config,
            self._setup.probe,
            self._setup.recorders,
            groups=opened.groups,
            compute=self._compute,
            until=options.until,
            tokenizer=self._setup.tokenizer,
        )

    def _backward(self, opened: OpenRevision) -> RecordedBackward | None:
        recorders = self._setup.recorders_of(opened.groups, Reads.GRADIENTS)
        if not recorders:
            return None
        assert self._setup.probe is not None
        assert opened.config is not None
        return RecordedBackward(
            opened.config,
            self._setup.probe,
            recorders,
            self._setup.tensors,
            groups=opened.groups,
            compute=self._compute,
        )

    @property
    def _compute(self) -> Compute:
        return Compute(device=self._setup.options.device, dtype=self._setup.compute_dtype, threads=self.threads)


def _show_weights(info: TensorInfo, raw: np.ndarray, survey: Survey) -> Observation:
    values = to_tensor(raw, info)
    return Observation(values=values, reads=Reads.WEIGHTS, layer=info.layer, tensor=info, ready_stats=survey)


def has_own_memory(device: str) -> bool:
    """True if weights are copied to the device: ahead, while it computes."""
    return torch.device(device).type != "cpu"


def _prepare_and_survey(
    prepare: Callable[[], Prepared], infos: Sequence[TensorInfo], column_sums: Collection[str], keeps_stored: bool
) -> tuple[Prepared, dict[str, TensorStats]]:
    """A stage on its device, and the statistics of its weights as they were stored, which are let go of."""
    prepared = prepare()
    prepared.wait()
    surveys = {
        info.name: tensor_stats_on_device(prepared.stored[info.name], info, column_sums=info.name in column_sums)
        for info in infos
    }
    return prepared if keeps_stored else replace(prepared, stored={}), surveys


def _survey_of(work: Future[tuple[Prepared, dict[str, TensorStats]]], info: TensorInfo) -> TensorStats:
    return work.result()[1][info.name]


def used_again(fetch_plan: FetchPlan) -> set[str]:
    """Tensors that two stages use, as tied embeddings are; they are kept, so that no byte is read twice."""
    used = ((step.stage, {info.name for info in step.infos}) for step in fetch_plan.steps)
    return {name for stage, read in used if stage for name in stage.tensors if name not in read}


def stage_weights(checkpoint: Checkpoint, stage: Stage, raw: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The tensors of a stage, as they were stored, from the bytes that have come."""
    return {name: to_tensor(raw[name], checkpoint.tensors[name]) for name in stage.tensors}
