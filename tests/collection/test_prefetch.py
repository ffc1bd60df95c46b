"""The prefetcher over revisions: ahead by bytes, into the next revision, and gone at once when it is told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from olmo_dynamics.checkpoints.memory import MemoryCheckpoint
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.collection.fetch_plan import Bounds, Step, plan_fetch
from olmo_dynamics.collection.memory_budget import SMALL_RUN, MemoryBudget, StoppedError
from olmo_dynamics.collection.prefetch import OpenRevision, Prefetcher, RevisionStream
from olmo_dynamics.errors import CheckpointError, NetworkError
from olmo_dynamics.names import Revision, TensorInfo

SIZE, COUNT = 10, 8
INFOS = tuple(TensorInfo(f"w{n}", "U8", (SIZE,), "f", n * SIZE, (n + 1) * SIZE) for n in range(COUNT))
REVISIONS = [Revision(f"step{n}") for n in range(4)]


class LiveOptions(MemoryCheckpoint):
    """A checkpoint of eight tensors that says when each is asked for."""

    def __init__(self, revision: Revision, log: list[tuple[str, str]], before: Callable[[str, str], None]) -> None:
        super().__init__("here", revision, {"f": bytes(range(SIZE * COUNT))})
        self._log, self._before = log, before
        self.tensors = {info.name: info for info in INFOS}  # type: ignore[misc]
        self._weights = None, self.tensors  # type: ignore[misc]
        self.closed = False

    def _fetch(self, spans: Sequence[Span]) -> list[np.ndarray]:
        for span in spans:
            name = f"w{span.start // SIZE}"
            self._before(self.revision.name, name)
            self._log.append((self.revision.name, name))
        return super()._fetch(spans)

    def known_sha256(self) -> str:
        return "none"

    def close(self) -> None:
        self.closed = True


class Fixture:
    """Opens recorded checkpoints; `before` is called with the names of what is about to be read."""

    def __init__(self, bounds: Bounds, problems: Mapping[str, Exception] | None = None) -> None:
        self.bounds, self.problems = bounds, problems or {}
        self.log: list[tuple[str, str]] = []
        self.checkpoints: dict[str, LiveOptions] = {}
        self.before: Callable[[str, str], None] = lambda revision, name: None

    def open(self, revision: Revision) -> OpenRevision:
        if revision.name in self.problems:
            raise self.problems[revision.name]
        self.checkpoints[revision.name] = LiveOptions(revision, self.log, self.before)
        way = plan_fetch([Step(None, (info,)) for info in INFOS], {}, self.bounds)
        return OpenRevision(self.checkpoints[revision.name], way, ("parameters",))

    def prefetcher(self) -> Prefetcher:
        return Prefetcher(self.open, REVISIONS, self.bounds)


def read_all(stream: RevisionStream) -> list[int]:
    return [int(raw[0]) for step in stream.opened.fetch_plan.steps for _, raw in stream.tensors(step)]


def settle(fixture: Fixture) -> None:
    """Wait until nothing more is fetched."""
    before = -1
    while len(fixture.log) != before:
        before = len(fixture.log)
        time.sleep(0.1)


def test_every_byte_of_every_revision_comes_once_and_in_turn() -> None:
    fixture = Fixture(Bounds(ahead=4 * SIZE, early=0))
    with fixture.prefetcher() as prefetcher:
        assert [read_all(stream) for stream in prefetcher] == [[n * SIZE for n in range(COUNT)]] * len(REVISIONS)
        assert prefetcher.budget.most <= 4 * SIZE
    assert sorted(fixture.log) == [(each.name, info.name) for each in REVISIONS for info in INFOS]
    assert all(each.closed for each in fixture.checkpoints.values())


def test_no_more_is_fetched_ahead_than_may_be() -> None:
    fixture = Fixture(Bounds(ahead=3 * SIZE, early=0))
    with fixture.prefetcher() as prefetcher:
        first = next(iter(prefetcher))
        settle(fixture)
        assert len(fixture.log) == 3
        steps = first.opened.fetch_plan.steps
        for used, step in enumerate(steps, 1):
            assert [info.name for info, _ in first.tensors(step)] == [f"w{used - 1}"]
            settle(fixture)
            assert len(fixture.log) == 3 + used


def test_the_next_revision_is_fetched_while_the_last_stop_is_in_use() -> None:
    fixture = Fixture(Bounds(ahead=2 * SIZE, early=0))
    with fixture.prefetcher() as prefetcher:
        stream = next(iter(prefetcher))
        read_all(stream)
        settle(fixture)
        assert fixture.log[COUNT:] == [("step1", "w0"), ("step1", "w1")]


def test_a_tensor_larger_than_the_bound_comes_all_the_same() -> None:
    fixture = Fixture(Bounds(ahead=1, early=0))
    with fixture.prefetcher() as prefetcher:
        assert [len(read_all(stream)) for stream in prefetcher] == [COUNT] * len(REVISIONS)


@pytest.mark.parametrize("where", ["opening", "first", "last"])
def test_a_broken_revision_does_not_spoil_those_behind_it(where: str) -> None:
    problem = CheckpointError("broken")
    fixture = Fixture(Bounds(ahead=4 * SIZE, early=0), {"step1": problem} if where == "opening" else {})

    def before(revision: str, name: str) -> None:
        if (revision, name) == ("step1", {"first": "w0", "last": "w7"}.get(where)):
            raise problem

    fixture.before = before
    done: list[object] = []
    with fixture.prefetcher() as prefetcher:
        for stream in prefetcher:
            try:
                done.append(len(read_all(stream)))
            except CheckpointError as error:
                done.append(error)
    assert done == [COUNT, problem, COUNT, COUNT]
    assert prefetcher.budget.held == 0


def test_a_revision_that_is_left_half_way_makes_room_for_the_next() -> None:
    fixture = Fixture(Bounds(ahead=2 * SIZE, early=0))
    with fixture.prefetcher() as prefetcher:
        for stream in prefetcher:
            if stream.revision.name == "step3":
                assert len(read_all(stream)) == COUNT
            else:
                next(stream.tensors(stream.opened.fetch_plan.steps[0]))
    assert prefetcher.budget.held == 0


def test_leaving_ends_the_threads_at_once_though_a_host_does_not_answer() -> None:
    fixture = Fixture(Bounds(ahead=4 * SIZE, early=0))
    hang = threading.Event()
    fixture.before = lambda revision, name: (name == "w2" and hang.wait(60)) or None
    started = time.monotonic()

    def interrupted() -> None:
        with fixture.prefetcher() as prefetcher:
            assert next(iter(prefetcher)).opened
            threading.Timer(0.1, hang.set).start()  # as a closed connection ends a read
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started < 5
    assert all(each.closed for each in fixture.checkpoints.values())


def test_an_error_of_the_network_reaches_the_one_who_measures() -> None:
    fixture = Fixture(Bounds(ahead=4 * SIZE, early=0), {"step2": NetworkError("no answer")})

    def collected() -> None:
        with fixture.prefetcher() as prefetcher:
            for stream in prefetcher:
                read_all(stream)

    with pytest.raises(NetworkError, match="no answer"):
        collected()
    assert all(each.closed for each in fixture.checkpoints.values())


def test_who_waits_for_room_is_told_that_there_will_be_none() -> None:
    budget = MemoryBudget(Bounds(ahead=10, early=0))
    budget.acquire(10, early=False)
    threading.Timer(0.05, budget.stop).start()
    with pytest.raises(StoppedError):
        budget.acquire(1, early=False)


def test_early_bytes_have_room_of_their_own_and_both_stay_below_twice_the_bound() -> None:
    budget = MemoryBudget(Bounds(ahead=100, early=150))
    budget.acquire(100, early=False)
    budget.acquire(100, early=True)
    waiting = threading.Thread(target=budget.acquire, args=(40,), kwargs={"early": True})
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive() and budget.held == 200
    budget.release(40, early=False)
    waiting.join(5)
    assert budget.held == budget.most == 200


def test_no_more_than_one_revision_is_held_ahead_unless_revisions_are_small() -> None:
    budget = MemoryBudget(Bounds.of(1 << 30))
    budget.expect(10)
    budget.acquire(SMALL_RUN, early=False)
    waiting = threading.Thread(target=budget.acquire, args=(10,), kwargs={"early": False})
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive() and budget.held == SMALL_RUN
    budget.expect(SMALL_RUN + 10)
    waiting.join(5)
    assert budget.held == SMALL_RUN + 10
