"""Ranged reads: every byte is read once and to its place, whatever the connection does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.checkpoints.http import range_reader, ranges
from olmo_dynamics.checkpoints.http.hub_api import Repo, retry_after
from olmo_dynamics.checkpoints.http.range_reader import CommitFiles, RangeReader
from olmo_dynamics.checkpoints.http.ranges import plan_requests
from olmo_dynamics.checkpoints.http.retry import RetryPolicy, TransientError
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import AccessError, CheckpointError, NetworkError
from tests.checkpoints.conftest import REPO
from tests.hub import Fault, LocalHub

FILE = "model.safetensors"
DATA = np.random.default_rng(0).bytes(300_000)
WHOLE = Span(FILE, 0, len(DATA))


class Line:
    """A reader of a repo of one large file."""

    def __init__(self, hub: LocalHub, retry: RetryPolicy, token: str | bool | None = False) -> None:
        hub.add_repo(REPO, {"main": {FILE: DATA}})
        self.hub = hub
        self.commit = hub.repositories[REPO].branches["main"].id
        self.repo = Repo(REPO, hub.endpoint, token)
        self.reader = RangeReader(self.repo, CommitFiles(self.commit, {FILE: len(DATA)}), retry=retry)

    def read(self, *spans: Span) -> list[bytes]:
        buffers = [np.empty(span.stop - span.start, np.uint8) for span in spans]
        self.reader.fetch(list(zip(spans, buffers, strict=True)))
        return [buffer.tobytes() for buffer in buffers]

    def ranges(self) -> list[tuple[int, int | None] | None]:
        return [request.range for request in self.hub.requests if request.host == "cdn"]


@pytest.fixture
def line(hub: LocalHub, retry: RetryPolicy) -> Line:
    return Line(hub, retry)


@pytest.fixture
def _small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of 50 kB, so that a small file takes several."""
    monkeypatch.setattr(ranges, "REQUEST_BYTES", 50_000)


class TestPlan:
    spans = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 60), st.integers(0, 40)), max_size=12)

    @given(spans, st.integers(1, 30))
    def test_fills_every_buffer_by_short_requests(self, drawn: list[tuple[str, int, int]], limit: int) -> None:
        files = {"a": np.arange(100, dtype=np.uint8), "b": np.arange(100, 200, dtype=np.uint8)}
        wanted = [(Span(file, at, at + size), np.zeros(size, np.uint8)) for file, at, size in drawn]
        requests = plan_requests(wanted, limit)
        assert sum(request.stop - request.at for request in requests) == sum(size for _, _, size in drawn)
        for request in requests:
            assert 0 < request.stop - request.at <= limit
            request.write(files[request.file][request.at : request.stop].data)
            assert request.at == request.stop
        for span, buffer in wanted:
            np.testing.assert_array_equal(buffer, files[span.file][span.start : span.stop])

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
    def test_takes_chunks_of_any_size(self, sizes: list[int], data: st.DataObject) -> None:
        ends = np.cumsum([0, *sizes])
        pairs = pairwise(ends)
        wanted = [(Span("a", int(start), int(stop)), np.zeros(stop - start, np.uint8)) for start, stop in pairs]
        [request] = plan_requests(wanted, 1000)
        body = np.arange(1, ends[-1] + 6, dtype=np.uint8)  # five bytes too many
        while request.parts:
            request.write(body[request.at : request.at + data.draw(st.integers(1, 12))].data)
        assert np.concatenate([buffer for _, buffer in wanted]).tolist() == body[: ends[-1]].tolist()

    def test_joins_neighbours_and_splits_giants(self) -> None:
        buffer = np.empty(10, np.uint8)
        wanted = [(Span("a", 10, 20), buffer), (Span("a", 0, 10), buffer), (Span("a", 21, 31), buffer)]
        assert [(request.at, request.stop) for request in plan_requests(wanted, 15)] == [(0, 15), (15, 20), (21, 31)]


class TestFetch:
    @pytest.mark.usefixtures("_small_requests")
    def test_reads_spans_in_ranges(self, line: Line) -> None:
        spans = [Span(FILE, 0, 8), Span(FILE, 120_000, 240_001), WHOLE, Span(FILE, 9, 9)]
        assert line.read(*spans) == [DATA[span.start : span.stop] for span in spans]
        assert line.reader.bytes_moved == sum(span.stop - span.start for span in spans)
        assert all(asked and asked[1] is not None and asked[1] - asked[0] <= 50_000 for asked in line.ranges())

    def test_joins_neighbouring_spans_into_one_request(self, line: Line) -> None:
        line.read(*(Span(FILE, at, at + 100) for at in range(0, 5000, 100)))
        assert line.ranges() == [(0, 5000)]

    @pytest.mark.usefixtures("_small_requests")
    def test_uses_at_most_four_connections(self, line: Line) -> None:
        line.read(Span(FILE, 0, 8))  # finds out where the file is
        line.hub.requests.clear()
        line.hub.rate = 500_000.0
        line.read(WHOLE)
        line.read(WHOLE)
        assert len(line.ranges()) == 12
        assert 1 < len({request.peer for request in line.hub.requests}) <= 4

    def test_asks_the_hub_once_for_a_file(self, line: Line) -> None:
        for at in range(0, 1000, 100):
            line.read(Span(FILE, at, at + 10))
        assert sum(request.host == "hub" for request in line.hub.requests) == 1
        assert len(line.ranges()) == 10

    def test_asks_by_commit_and_shows_its_token_to_the_hub_alone(self, hub: LocalHub, retry: RetryPolicy) -> None:
        hub.tokens.add("hf_secret")
        line = Line(hub, retry, "hf_secret")
        line.read(Span(FILE, 0, 10))
        line.read(Span(FILE, 10, 20))
        assert [(request.host, request.token) for request in hub.requests] == [
            ("hub", "hf_secret"),
            ("cdn", None),
            ("cdn", None),
        ]
        assert hub.requests[0].path == f"/{REPO}/resolve/{line.commit}/{FILE}"

    def test_renews_a_signed_address_without_waiting(self, line: Line, pauses: list[float]) -> None:
        line.read(Span(FILE, 0, 10))
        line.hub.add_fault(Fault("expired", FILE, host="cdn"))
        assert line.read(Span(FILE, 10, 20)) == [DATA[10:20]]
        assert [request.host for request in line.hub.requests] == ["hub", "cdn", "cdn", "hub", "cdn"]
        assert pauses == []

    def test_tries_again_where_a_new_address_is_refused(self, line: Line, pauses: list[float]) -> None:
        line.hub.add_fault(Fault("expired", FILE, host="cdn"))
        assert line.read(Span(FILE, 10, 20)) == [DATA[10:20]]
        assert len(pauses) == 1

    def test_reads_small_files_through_the_hubs_own_redirect(self, hub: LocalHub, retry: RetryPolicy) -> None:
        hub.add_repo(REPO, {"main": {"config.json": b'{"a": 1}'}})
        repo = Repo(REPO, hub.endpoint, False)
        reader = RangeReader(
            repo, CommitFiles(hub.repositories[REPO].branches["main"].id, {"config.json": 8}), retry=retry
        )
        buffer = np.empty(4, np.uint8)
        reader.fetch([(Span("config.json", 2, 6), buffer)])
        assert buffer.tobytes() == b'a": '
        assert {request.host for request in hub.requests} == {"hub"}


class TestFaults:
    @pytest.mark.parametrize("kind", ["short", "reset", "stall"])
    def test_goes_on_where_a_body_broke_off(self, line: Line, pauses: list[float], kind: str) -> None:
        line.reader._retry = replace(line.reader._retry, timeout=1.0 if kind == "stall" else 10.0)
        line.hub.add_fault(Fault(kind, FILE, host="cdn", keep=70_000, seconds=30.0))
        assert line.read(WHOLE) == [DATA]
        first, second = line.ranges()
        assert first == (0, len(DATA))
        assert second is not None
        assert second[1] == len(DATA)
        assert 0 < second[0] <= 70_000  # only the rest; a reset may swallow what the kernel had not handed over
        assert line.reader.bytes_moved == len(DATA)
        assert pauses == [1.0]

    @pytest.mark.parametrize("kind", ["hang_up", "500", "502", "503", "504", "408"])
    @pytest.mark.parametrize("host", ["hub", "cdn"])
    def test_tries_again_after(self, line: Line, pauses: list[float], kind: str, host: str) -> None:
        line.hub.add_fault(Fault(kind, FILE, host=host, times=2))
        assert line.read(WHOLE) == [DATA]
        assert pauses == [1.0, 2.0]

    def test_waits_as_long_as_the_hub_asks(self, line: Line, pauses: list[float]) -> None:
        line.hub.add_fault(Fault("429", FILE, wait=57))
        line.hub.add_fault(Fault("503", FILE, retry_after="9", after=1))
        assert line.read(WHOLE) == [DATA]
        assert pauses == [59.0, 11.0]  # one second for rounding, one of jitter

    def test_gives_up_where_the_asked_pause_is_too_long(self, line: Line) -> None:
        line.hub.add_fault(Fault("429", FILE, wait=3600))
        with pytest.raises(NetworkError) as caught:
            line.read(WHOLE)
        host = line.repo.host
        assert str(caught.value) == (
            f"reading bytes 0 to 300000 of {REPO}/{FILE} from {host} failed because {host} answered 429 and asks for a pause "
            "of 3600 s; run it again later, or log in with `hf auth login` for higher limits"
        )

    def test_gives_up_in_the_end(self, line: Line, pauses: list[float]) -> None:
        line.hub.add_fault(Fault("503", FILE, host="hub", times=None))
        with pytest.raises(NetworkError) as caught:
            line.read(Span(FILE, 5, 9))
        host = line.repo.host
        assert str(caught.value) == (
            f"reading bytes 5 to 9 of {REPO}/{FILE} from {host} failed 3 times, the last time because {host} answered 503; "
            "check the connection and run it again (folders of checkpoints need no network)"
        )
        assert len(pauses) == 2

    def test_gives_up_on_bodies_that_keep_breaking_off(self, line: Line) -> None:
        line.hub.add_fault(Fault("wrong_size", FILE, host="cdn", keep=10, times=None))
        with pytest.raises(
            NetworkError, match="the last time because the response ended 299970 bytes early; check the"
        ):
            line.read(WHOLE)

    @pytest.mark.usefixtures("_small_requests")
    def test_survives_a_bad_day(self, line: Line) -> None:
        for kind in ("short", "reset", "503", "hang_up"):
            line.hub.add_fault(Fault(kind, FILE, probability=0.15, seed=3, times=6))
        line.reader._retry = replace(line.reader._retry, tries=20)
        assert line.read(WHOLE, Span(FILE, 7, 200_000)) == [DATA, DATA[7:200_000]]

    def test_takes_a_whole_file_where_the_host_ignores_ranges(self, line: Line) -> None:
        line.hub.add_fault(Fault("ignore_range", FILE, host="cdn", times=None))
        assert line.read(Span(FILE, 100_000, 100_010)) == [DATA[100_000:100_010]]
        assert line.read(WHOLE) == [DATA]

    def test_refuses_to_skip_for_ever(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(range_reader, "SKIP_LIMIT", 1000)
        line.hub.add_fault(Fault("ignore_range", FILE, host="cdn", times=None))
        with pytest.raises(NetworkError) as caught:
            line.read(Span(FILE, 1001, 1002))
        assert str(caught.value) == (
            f"{line.hub.cdn_endpoint[7:]} ignores ranges, so {REPO}/{FILE} cannot be streamed; run `hf download {REPO} "
            f"--revision {line.commit} --local-dir DIR` and give that folder"
        )

    def test_refuses_a_file_of_another_size(self, line: Line) -> None:
        line.reader._files = CommitFiles(line.commit, {FILE: len(DATA) + 1})
        for fault in ([], [Fault("ignore_range", FILE, host="cdn")]):
            line.hub.faults = fault
            with pytest.raises(CheckpointError) as caught:
                line.read(Span(FILE, 0, 10))
            assert str(caught.value) == (
                f"{REPO}/{FILE} was listed with 300001 bytes, but the host offers 300000; open the revision again"
            )

    def test_refuses_a_span_outside_the_file(self, line: Line) -> None:
        with pytest.raises(CheckpointError) as caught:
            line.read(Span(FILE, 300_000, 300_001))
        assert str(caught.value) == (
            f"{REPO}/{FILE}: bytes 300000 to 300001 lie outside the file, which was listed with 300000 bytes; "
            "open the revision again"
        )

    def test_refuses_another_commit(self, line: Line) -> None:
        reader = RangeReader(line.repo, CommitFiles("main", {FILE: len(DATA)}))
        with pytest.raises(CheckpointError) as caught:
            reader.fetch([(Span(FILE, 0, 1), np.empty(1, np.uint8))])
        assert str(caught.value) == (
            f"{REPO}: the branch moved: expected commit main, got {line.commit}; open the revision again"
        )

    def test_says_how_to_enter_a_gated_repo(self, line: Line) -> None:
        line.hub.repositories[REPO].gated = "auto"
        with pytest.raises(AccessError) as caught:
            line.read(WHOLE)
        assert str(caught.value) == (
            f"{REPO} is gated: accept its terms at {line.hub.endpoint}/{REPO}, then run `hf auth login` or set HF_TOKEN"
        )

    @pytest.mark.usefixtures("_small_requests")
    def test_one_hopeless_request_ends_the_others(self, line: Line) -> None:
        line.hub.rate = 20_000.0  # 2.5 s for each request
        line.hub.add_fault(Fault("403", lambda request: request.range == (0, 50_000), host="hub", times=None))
        began = time.monotonic()
        with pytest.raises(
            AccessError, match=r"forbids reading tiny-org/tiny-run; run `hf auth login` or set HF_TOKEN to a"
        ):
            line.read(WHOLE)
        line.reader._pool.shutdown(wait=True)
        assert time.monotonic() - began < 2.0


class TestPins:
    @pytest.fixture
    def moved(self, line: Line) -> Callable[[], str]:
        """A function that moves the branch, on a hub that answers by branch to requests by commit."""

        def move() -> str:
            new = line.hub.set_branch(REPO, "main", {FILE: DATA[::-1]})
            line.hub.repositories[REPO].commits[line.commit] = new
            return new.id

        return move

    def message(self, line: Line, how: str) -> str:
        return f"{REPO}: the branch moved: {how}; open the revision again"

    def test_a_branch_that_moves_between_two_requests_changes_nothing(self, line: Line) -> None:
        fault = Fault("hook", FILE, host="cdn", call=lambda: line.hub.set_branch(REPO, "main", {FILE: DATA[::-1]}))
        line.hub.add_fault(fault)
        assert line.read(Span(FILE, 0, 100), WHOLE) == [DATA[:100], DATA]
        line.reader._addresses.clear()
        assert line.read(WHOLE) == [DATA]
        assert fault.struck == 1

    def test_another_commit_is_noticed_before_a_byte_of_it_is_used(
        self, line: Line, moved: Callable[[], str], pauses: list[float]
    ) -> None:
        line.read(Span(FILE, 0, 100))
        line.hub.add_fault(Fault("hook", FILE, host="cdn", call=moved))
        assert line.read(Span(FILE, 100, 200)) == [DATA[100:200]]  # the signed address is the old file's
        line.hub.add_fault(Fault("expired", FILE, host="cdn"))
        buffer = np.zeros(100, np.uint8)
        with pytest.raises(CheckpointError) as caught:
            line.reader.fetch([(Span(FILE, 200, 300), buffer)])
        new = line.hub.repositories[REPO].branches["main"].id
        assert str(caught.value) == self.message(line, f"expected commit {line.commit}, got {new}")
        assert not buffer.any()
        assert pauses == []

    def test_another_file_is_noticed_by_its_hash(self, line: Line) -> None:
        line.reader._files = CommitFiles(line.commit, {FILE: len(DATA)}, {FILE: "f" * 64})
        with pytest.raises(CheckpointError) as caught:
            line.read(WHOLE)
        found = line.hub.repositories[REPO].branches["main"].files[FILE].sha256
        assert str(caught.value) == self.message(line, f"{FILE} was listed with hash {'f' * 64} and now has {found}")

    def test_a_commit_that_is_gone_is_said_to_be(self, line: Line) -> None:
        line.hub.repositories[REPO].commits.clear()
        with pytest.raises(CheckpointError) as caught:
            line.read(WHOLE)
        assert str(caught.value) == self.message(line, f"{line.repo.host} no longer has commit {line.commit}")


class TestLogins:
    @pytest.fixture
    def private(self, hub: LocalHub, retry: RetryPolicy, monkeypatch: pytest.MonkeyPatch) -> Line:
        """A reader of a gated repo, with the token in HF_TOKEN."""
        monkeypatch.setenv("HF_TOKEN", "hf_first")
        line = Line(hub, retry, None)
        self.log_in(line, "hf_first")
        hub.repositories[REPO].gated = "auto"
        return line

    def log_in(self, line: Line, token: str) -> None:
        line.hub.tokens = line.hub.repositories[REPO].tokens = {token}

    def test_a_renewed_login_is_used(self, private: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        assert private.read(Span(FILE, 0, 10)) == [DATA[:10]]
        private.reader._addresses.clear()
        self.log_in(private, "hf_second")
        monkeypatch.setenv("HF_TOKEN", "hf_second")
        assert private.read(WHOLE) == [DATA]
        assert [request.token for request in private.hub.requests if request.host == "hub"] == ["hf_first", "hf_second"]

    def test_one_that_was_renewed_while_the_hub_refused_the_old_is_tried(
        self, private: Line, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
    ) -> None:
        def renew() -> None:
            self.log_in(private, "hf_second")
            monkeypatch.setenv("HF_TOKEN", "hf_second")

        private.hub.add_fault(Fault("hook", FILE, host="hub", call=renew))
        assert private.read(WHOLE) == [DATA]
        assert len(pauses) == 1

    def test_one_that_ran_out_is_said_to_be(self, private: Line) -> None:
        self.log_in(private, "hf_second")
        with pytest.raises(
            AccessError, match=r"refuses the token that was sent; run `hf auth login` again, or correct or"
        ):
            private.read(WHOLE)


def test_files_in_xet_are_read_by_plain_ranges(line: Line) -> None:
    line.hub.xet = True
    assert line.read(Span(FILE, 10, 20), WHOLE) == [DATA[10:20], DATA]
    paths = {request.path for request in line.hub.requests}
    assert not any("xet" in path or "reconstructions" in path for path in paths)
    assert len(paths) == 2  # the hub's address of the file, and the storage's


def test_calls_in_flight_are_served_in_turn_by_all_connections(hub: LocalHub, retry: RetryPolicy) -> None:
    line = Line(hub, retry)
    line.read(Span(FILE, 0, 1))
    hub.requests.clear()
    hub.total_rate = 1e6
    spans = [Span(FILE, at, at + 10_000) for at in range(0, 300_000, 10_000)]
    with ThreadPoolExecutor(len(spans)) as pool:
        pending = []
        for span in spans:
            pending.append(pool.submit(line.read, span))
            time.sleep(0.002)  # so that they are asked in this order
        assert [future.result() for future in pending] == [[DATA[span.start : span.stop]] for span in spans]
    asked = [request.range[0] // 10_000 for request in hub.requests if request.range]
    assert all(abs(place - turn) < 8 for turn, place in enumerate(asked))  # four at a time, two of them may swap
    assert len({request.peer for request in hub.requests}) == 4
    counts = Counter(request.peer for request in hub.requests)
    assert min(counts.values()) >= 3


class TestRetryPolicy:
    def test_doubles_its_waits_up_to_a_limit(self, pauses: list[float], retry: RetryPolicy) -> None:
        def attempt() -> None:
            raise TransientError("it rained")

        with pytest.raises(NetworkError) as caught:
            replace(retry, tries=7, longest_wait=10.0).call(attempt, "sailing")
        assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
        assert str(caught.value) == (
            "sailing failed 7 times, the last time because it rained; "
            "check the connection and run it again (folders of checkpoints need no network)"
        )

    @given(st.floats(0, 1))
    def test_jitters_by_half(self, draw: float) -> None:
        pauses: list[float] = []
        answers = iter([TransientError("no"), None])

        def attempt() -> str:
            problem = next(answers)
            if problem:
                raise problem
            return "yes"

        retry = RetryPolicy(first_wait=4.0, sleep=lambda stop, seconds: pauses.append(seconds), jitter=lambda: draw)
        assert retry.call(attempt, "asking") == "yes"
        assert pauses == [2.0 + 2.0 * draw]

    def test_really_sleeps_until_it_is_stopped(self) -> None:
        stop = threading.Event()
        threading.Timer(0.05, stop.set).start()

        def attempt() -> None:
            raise TransientError("no")

        began = time.monotonic()
        with pytest.raises(NetworkError):
            RetryPolicy(first_wait=60.0, tries=9, longest_wait=60.0).call(attempt, "waiting", stop)
        assert time.monotonic() - began < 5.0

    def test_forgets_failures_once_there_is_headway(self, retry: RetryPolicy, pauses: list[float]) -> None:
        outcomes = [False, False, True, False, True, False, False]

        def attempt() -> None:
            problem = TransientError("no")
            problem.made_progress = outcomes.pop(0)
            raise problem

        with pytest.raises(NetworkError, match="sailing failed 3 times"):
            retry.call(attempt, "sailing")
        assert not outcomes
        assert pauses == [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]

    def test_leaves_other_errors_alone(self, retry: RetryPolicy, pauses: list[float]) -> None:
        def attempt() -> None:
            raise CheckpointError("no use")

        with pytest.raises(CheckpointError, match=r"^no use$"):
            retry.call(attempt, "asking")
        assert pauses == []


class TestAskedPause:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"RateLimit": '"api";r=0;t=55'}, 55.0),
            ({"ratelimit": '"api";r=3;t=55'}, None),  # the quota is not what it complains of
            ({"RateLimit": '"api";r=3;t=55', "Retry-After": "7"}, 7.0),
            ({"retry-after": " 12 "}, 12.0),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ],
    )
    def test_reads_the_headers(self, headers: dict[str, str], seconds: float | None) -> None:
        assert retry_after(headers) == seconds

    def test_reads_dates(self) -> None:
        asked = retry_after({"Retry-After": formatdate(time.time() + 30, usegmt=True)})
        assert asked is not None
        assert 25 < asked <= 30
