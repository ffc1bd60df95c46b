"""What is measured on the way through one revision: each stop's tensors as they come, then the forward pass over them.

>>> with Measuring(study, threads=2) as measuring:  # doctest: +SKIP
...     records = measuring.records(visit, advance=print)

Every byte is read once and serves both the parameter statistics and its layer's forward pass, and is dropped after it. The
records do not depend on how many threads there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from torch import Tensor

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.fetching import Opened, Visit
from olmo_dynamics.collection.itinerary import Itinerary, Stop
from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.collection.study import Study
from olmo_dynamics.model import Compute, Stage, parse_config, to_tensor
from olmo_dynamics.names import Record, TensorInfo
from olmo_dynamics.recorders import (
    Survey,
    complete,
    embedding_records,
    parameter_records,
    row_blocks,
    survey_rows,
)
from olmo_dynamics.recorders.survey import Partial

Raw = dict[str, np.ndarray]


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
        forward = self._forward(opened)
        again = _used_again(opened.itinerary)
        kept: Raw = {}
        records: list[Record] = []
        for stop in opened.itinerary.stops:
            raw, found = self._surveyed(visit, stop)
            kept |= {name: arrived for name, arrived in raw.items() if name in again}
            records += found
            if forward is not None and stop.stage is not None:
                records += forward.run(stop.stage, _weights(opened.checkpoint, stop.stage, kept | raw))
            del raw
            opened.checkpoint.release([info for info in stop.infos if info.name not in again])
            advance(stop.nbytes)
        return records

    def _surveyed(self, visit: Visit, stop: Stop) -> tuple[Raw, list[Record]]:
        """The bytes of a stop, each tensor surveyed while others come, the rows of a large one by several threads."""
        groups = visit.opened.groups
        measured, embeddings = (set(self._study.measured(each)) for each in (groups, _only_embeddings(groups)))
        raw: Raw = {}
        surveys: list[tuple[TensorInfo, list[Future[Partial]]]] = []
        for info, arrived in visit.take(stop):
            raw[info.name] = arrived
            if info.name in measured:
                work = partial(survey_rows, arrived, info, column_sums=info.name in embeddings)
                surveys.append((info, [self._pool.submit(work, rows) for rows in row_blocks(info)]))
        records: list[Record] = []
        for info, blocks in surveys:
            survey = complete([block.result() for block in blocks], self._pool.map)
            records += parameter_records(survey, info) if "parameters" in groups else []
            records += self._embedding_records(survey, info) if info.name in embeddings else []
        return raw, records

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


def _only_embeddings(groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in groups if name == "embeddings")


def _used_again(itinerary: Itinerary) -> set[str]:
    """Tensors that two stages use, as tied embeddings are; they are kept, so that no byte is read twice."""
    uses = Counter(name for stop in itinerary.stops if stop.stage for name in stop.stage.tensors)
    return {name for name, times in uses.items() if times > 1}


def _weights(checkpoint: Checkpoint, stage: Stage, raw: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: to_tensor(raw[name], checkpoint.tensors[name]) for name in stage.tensors}
