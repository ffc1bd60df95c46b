"""What is measured on the way through one revision: each stop's tensors as they come, then the forward pass over them.

>>> with Measuring(study, threads=2) as measuring:  # doctest: +SKIP
...     records = measuring.records(visit, advance=print)

Every byte is read once and serves both the parameter statistics and its layer's forward pass, and is dropped after it. The
records do not depend on how many threads there are. Where the pass runs on a device of its own, one stage more is under way:
the next one's weights, if they have come, are copied and surveyed there while this one computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.fetching import Opened, Visit
from olmo_dynamics.collection.itinerary import Itinerary, Stop
from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.collection.study import Study
from olmo_dynamics.model import Compute, Prepared, Stage, parse_config, to_tensor
from olmo_dynamics.names import Record, TensorInfo
from olmo_dynamics.recorders import (
    Survey,
    complete,
    embedding_records,
    parameter_records,
    row_blocks,
    survey_on_device,
    survey_rows,
)

Raw = dict[str, np.ndarray]
Surveying = Callable[[], Survey]


@dataclass(frozen=True)
class _Way:
    """One revision under way; tensors that a later stage uses again are kept, so that no byte is read twice."""

    visit: Visit
    forward: RecordedPass | None
    again: set[str]
    kept: Raw = field(default_factory=dict)

    def preparing(self, stop: Stop, raw: Raw) -> Callable[[], Prepared] | None:
        """What makes a stop's stage ready, if it has one."""
        self.kept.update((name, arrived) for name, arrived in raw.items() if name in self.again)
        if self.forward is None or stop.stage is None:
            return None
        return partial(
            self.forward.prepare, stop.stage, _weights(self.visit.opened.checkpoint, stop.stage, self.kept | raw)
        )


@dataclass(frozen=True)
class _Taken:
    """A stop whose bytes have come: its surveys, under way, and its stage made ready; to call is to wait."""

    surveys: list[tuple[Surveying, TensorInfo]]
    prepared: Callable[[], Prepared] | None


class Measuring:
    """Threads that measure, for as many revisions of a study as come."""

    def __init__(self, study: Study, threads: int) -> None:
        self._study = study
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="olmo-dynamics-survey")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def records(self, visit: Visit, advance: Callable[[int], None]) -> list[Record]:
        """Measure one revision; `advance` is told the bytes of each stop.

        Raises:
            CheckpointError: what came contradicts the headers, or what was published of it.
        """
        opened = visit.opened
        way = _Way(visit, self._forward(opened), _used_again(opened.itinerary))
        records: list[Record] = []
        ahead: _Taken | None = None
        for stop, following in zip_longest(opened.itinerary.stops, opened.itinerary.stops[1:]):
            taken = ahead or self._take(way, stop)
            look_ahead = following is not None and is_apart(self._study.measurement.device) and visit.has(following)
            ahead = self._take(way, following) if look_ahead else None
            records += [each for one in taken.surveys for each in self._records_of(*one, opened.groups)]
            if way.forward is not None and taken.prepared is not None:
                records += way.forward.run_prepared(taken.prepared())
            del taken
            opened.checkpoint.release([info for info in stop.infos if info.name not in way.again])
            advance(stop.nbytes)
        return records

    def _take(self, way: _Way, stop: Stop) -> _Taken:
        """The bytes of a stop, each tensor surveyed while others come, the rows of a large one by several threads.

        Weights that go to another device are surveyed there, all by one thread, while the stage before computes.
        """
        groups = way.visit.opened.groups
        measured, embeddings = (set(self._study.measured(each)) for each in (groups, _only_embeddings(groups)))
        elsewhere = stop.stage is not None and is_apart(self._study.measurement.device)
        raw: Raw = {}
        surveys: list[tuple[Surveying, TensorInfo]] = []
        for info, arrived in way.visit.take(stop):
            raw[info.name] = arrived
            if info.name in measured and not elsewhere:
                surveys.append((self._survey_here(arrived, info, column_sums=info.name in embeddings), info))
        prepare = way.preparing(stop, raw)
        if prepare is None or not elsewhere:
            return _Taken(surveys, prepare)
        wanted = [info for info in stop.infos if info.name in measured]
        work = self._pool.submit(_prepare_and_survey, prepare, wanted, embeddings)
        return _Taken([(partial(_survey_of, work, info), info) for info in wanted], lambda: work.result()[0])

    def _survey_here(self, raw: np.ndarray, info: TensorInfo, *, column_sums: bool) -> Surveying:
        work = partial(survey_rows, raw, info, column_sums=column_sums)
        blocks = [self._pool.submit(work, rows) for rows in row_blocks(info)]
        return lambda: complete([block.result() for block in blocks], self._pool.map)

    def _records_of(self, surveying: Surveying, info: TensorInfo, groups: tuple[str, ...]) -> list[Record]:
        survey = surveying()
        records = parameter_records(survey, info) if "parameters" in groups else []
        if info.name in self._study.measured(_only_embeddings(groups)):
            records += self._embedding_records(survey, info)
        return records

    def _forward(self, opened: Opened) -> RecordedPass | None:
        if not any(stop.stage for stop in opened.itinerary.stops):
            return None
        assert self._study.probe is not None
        measurement = self._study.measurement
        compute = Compute(device=measurement.device, dtype=self._study.compute_dtype, threads=self._threads)
        return RecordedPass(
            parse_config(opened.checkpoint.config),
            self._study.probe,
            groups=opened.groups,
            compute=compute,
            until=measurement.until,
        )

    def _embedding_records(self, survey: Survey, info: TensorInfo) -> list[Record]:
        probe = self._study.probe
        assert probe is not None
        counts = np.bincount(probe.token_ids[probe.mask], minlength=info.shape[0])
        return embedding_records(survey, info, token_counts=counts, tokenizer_size=probe.tokenizer_size)


def is_apart(device: str) -> bool:
    """Whether a device has memory of its own, so that weights are copied to it: ahead, while it computes."""
    return torch.device(device).type != "cpu"


def _prepare_and_survey(
    prepare: Callable[[], Prepared], infos: Sequence[TensorInfo], embeddings: Collection[str]
) -> tuple[Prepared, dict[str, Survey]]:
    """A stage on its device, and what its weights are as they were stored, which is let go of."""
    prepared = prepare()
    prepared.wait()
    surveys = {
        info.name: survey_on_device(prepared.stored[info.name], info, column_sums=info.name in embeddings)
        for info in infos
    }
    return replace(prepared, stored={}), surveys


def _survey_of(work: Future[tuple[Prepared, dict[str, Survey]]], info: TensorInfo) -> Survey:
    return work.result()[1][info.name]


def _only_embeddings(groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in groups if name == "embeddings")


def _used_again(itinerary: Itinerary) -> set[str]:
    """Tensors that two stages use, as tied embeddings are; they are kept, so that no byte is read twice."""
    uses = Counter(name for stop in itinerary.stops if stop.stage for name in stop.stage.tensors)
    return {name for name, times in uses.items() if times > 1}


def _weights(checkpoint: Checkpoint, stage: Stage, raw: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: to_tensor(raw[name], checkpoint.tensors[name]) for name in stage.tensors}
