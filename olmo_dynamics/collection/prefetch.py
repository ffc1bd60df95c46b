"""Bytes fetched ahead: one pipeline over all revisions, so that the link does not idle between two of them.

>>> with Prefetcher(opening, revisions, Bounds.of(1 << 30)) as pipeline:  # doctest: +SKIP
...     for stream in pipeline:
...         for step in stream.opened.fetch_plan.steps:
...             raw = dict(stream.tensors(step))

One thread walks over the loads of one revision after another and waits where the budget is spent; others read, and hash what
they read. Whoever measures takes the tensors step by step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import numpy as np

from olmo_dynamics.checkpoints import Checkpoint, ShardHashes
from olmo_dynamics.collection.fetch_plan import Bounds, FetchPlan, Load, Step
from olmo_dynamics.collection.memory_budget import MemoryBudget, StoppedError
from olmo_dynamics.collection.setup.revision_state import RevisionState
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.names import Revision, TensorInfo

READERS = 3  # one load being hashed, one on the wire, and the next, so that no connection waits
CLOSING_SECONDS = 1.0  # how long the end of a pipeline waits for a host that does not answer
OPEN_AHEAD = 2
"""Revisions that are open beside the one in use: more would only hold connections, since bytes are what is bounded."""


@dataclass(frozen=True, slots=True)
class OpenRevision:
    """A checkpoint, the way through it, the groups it is for, hashes of the shards whose bytes come in order, and its model.

    `state` is its optimiser's, where a group reads it; `notes` are lines for the user on groups that it cannot be measured for.
    `excluded` are the tensors that are not measured, since their bytes are not this revision's. `moved` and `requests` are
    those of opening it: of its headers and configs, and of the tokenizer where it was read.
    """

    checkpoint: Checkpoint
    fetch_plan: FetchPlan
    groups: tuple[str, ...]
    hashes: ShardHashes | None = None
    config: ModelConfig | None = None
    state: RevisionState | None = None
    notes: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    moved: int = field(init=False)
    requests: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "moved", self.checkpoint.bytes_moved)
        object.__setattr__(self, "requests", self.checkpoint.requests_made)

    def read(self, load: Load) -> dict[str, np.ndarray]:
        """A load's bytes by tensor.

        Raises:
            IntegrityError: with these bytes a shard is complete, and not what was published.
        """
        weights, moments = self._split(load.infos)
        raws = self.checkpoint.read_many(weights) if weights else {}
        if self.state is not None and moments:
            raws |= self.state.read_many(moments)
        for info in load.infos:
            if self.hashes is not None and info.file in self.fetch_plan.checked and not load.again:
                self.hashes.feed(info, raws[info.name])
        return raws

    def release(self, infos: Sequence[TensorInfo]) -> None:
        """Release the memory of tensors, or of moments, that will not be used again."""
        weights, moments = self._split(infos)
        self.checkpoint.release(weights)
        if self.state is not None:
            self.checkpoint.release_spans(self.state.spans(moments))

    def _split(self, infos: Sequence[TensorInfo]) -> tuple[list[TensorInfo], list[TensorInfo]]:
        """Weights, and moments of the optimiser."""
        known = self.state.infos if self.state is not None else {}
        return [each for each in infos if each.name not in known], [each for each in infos if each.name in known]


Opening = Callable[[Revision], OpenRevision]
"""Opens a revision, on a thread of the pipeline; what it raises reaches whoever uses the stream."""


class RevisionStream:
    """One revision under way, as the one who measures sees it."""

    def __init__(self, revision: Revision, budget: MemoryBudget) -> None:
        self.revision = revision
        self.opening: Future[OpenRevision] = Future()
        self.weights_sha256: Future[str] = Future()
        self.abandoned = False
        self._budget = budget
        self._arrivals: SimpleQueue[tuple[Load, Future[dict[str, np.ndarray]]] | None] = SimpleQueue()
        self._sent: deque[tuple[Load, Future[dict[str, np.ndarray]]] | None] = (
            deque()
        )  # taken out of the queue, no more
        self._there: dict[str, deque[tuple[np.ndarray, bool]]] = {}  # what is read twice may be there twice

    @property
    def opened(self) -> OpenRevision:
        """The open checkpoint; waits for it, and raises what opening raised."""
        return self.opening.result()

    def tensors(self, step: Step) -> Iterator[tuple[TensorInfo, np.ndarray]]:
        """The tensors of a step and their bytes, in the order in which they come; raises whatever reading them raised."""
        wanted = {info.name: info for info in step.infos}
        while wanted:
            for name in [name for name in wanted if name in self._there]:
                raw, early = self._there[name].popleft()
                if not self._there[name]:
                    del self._there[name]
                info = wanted.pop(name)
                self._budget.release(info.nbytes, early=early)
                yield info, raw
            if wanted:
                self._arrive()

    def has(self, step: Step) -> bool:
        """True if all tensors of a step have come, so that taking them means no wait."""
        while not self._arrivals.empty():
            self._sent.append(self._arrivals.get())
        while self._sent and self._sent[0] is not None and self._sent[0][1].done():
            self._arrive()
        return all(info.name in self._there for info in step.infos)

    def close(self) -> None:
        """Close the checkpoint; what was fetched and not taken is dropped."""
        self.abandoned = True
        if self.opening.exception() is None:
            self.opened.checkpoint.close()
        for raw, early in chain.from_iterable(self._there.values()):
            self._budget.release(raw.nbytes, early=early)
        self._there.clear()
        while (arrival := self._following()) is not None:
            load, reading = arrival
            reading.cancel()
            self._budget.release(load.nbytes, early=load.early)

    def send(self, load: Load, reading: Future[dict[str, np.ndarray]]) -> None:
        """Another load is on its way."""
        self._arrivals.put((load, reading))

    def end(self) -> None:
        """No further load comes."""
        self._arrivals.put(None)

    def _following(self) -> tuple[Load, Future[dict[str, np.ndarray]]] | None:
        return self._sent.popleft() if self._sent else self._arrivals.get()

    def _arrive(self) -> None:
        arrival = self._following()
        if arrival is None:
            self._arrivals.put(None)
            raise StoppedError
        load, reading = arrival
        try:
            raws = reading.result()
        except BaseException:
            self._budget.release(load.nbytes, early=load.early)
            raise
        for name, raw in raws.items():
            self._there.setdefault(name, deque()).append((raw, load.early))


class Prefetcher:
    """The streams to some revisions, in order; leaving its context closes whatever is open, at once.

    Unless `hashed` is False, each stream finds the hash of its weights too.
    """

    def __init__(self, opening: Opening, revisions: Sequence[Revision], bounds: Bounds, *, hashed: bool = True) -> None:
        self.budget = MemoryBudget(bounds)
        self._opening, self._hashed = opening, hashed
        self._streams = [RevisionStream(revision, self.budget) for revision in revisions]
        self._room = threading.Semaphore(1 + OPEN_AHEAD)
        self._stopped = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="olmo-dynamics-reader")
        self._thread = threading.Thread(target=self._fetch, name="olmo-dynamics-fetcher", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self.budget.stop()
        self._room.release()
        self._close()
        self._thread.join(CLOSING_SECONDS)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[RevisionStream]:
        for stream in self._streams:
            yield stream
            stream.close()
            self._room.release()

    def _close(self) -> None:
        for stream in self._streams:
            if stream.opening.done() and stream.opening.exception() is None:
                stream.opened.checkpoint.close()

    def _fetch(self) -> None:
        for stream in self._streams:
            self._room.acquire()
            try:
                if self._stopped:
                    return
                self._fetch_one(stream)
            except StoppedError:
                return
            finally:
                stream.end()

    def _fetch_one(self, stream: RevisionStream) -> None:
        try:
            opened = self._opening(stream.revision)
        except BaseException as problem:
            stream.opening.set_exception(problem)
            return
        if self._stopped:
            opened.checkpoint.close()
            return
        if self._hashed:
            stream.weights_sha256 = self._readers.submit(opened.checkpoint.known_sha256)
        self.budget.expect(opened.fetch_plan.nbytes)
        stream.opening.set_result(opened)
        for load in opened.fetch_plan.loads:
            if stream.abandoned:
                return
            self.budget.acquire(load.nbytes, early=load.early)
            stream.send(load, self._readers.submit(opened.read, load))
