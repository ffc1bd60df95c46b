"""Bodies straight into buffers: the same bytes under every fault, over few connections, else through the library."""

from __future__ import annotations

import gc
import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx2
import numpy as np
import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from olmo_dynamics.checkpoints.http import range_reader
from olmo_dynamics.checkpoints.http.connections import (
    Connections,
    PendingReads,
    is_reached_directly,
    uses_default_client,
)
from olmo_dynamics.checkpoints.http.hub_api import Repo
from olmo_dynamics.checkpoints.http.range_reader import CommitFiles, RangeReader
from olmo_dynamics.checkpoints.http.retry import RetryPolicy, TransientError
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import CheckpointError, NetworkError
from tests.checkpoints.conftest import REPO
from tests.hub import Fault, LocalHub

FILE = "model.safetensors"
DATA = np.random.default_rng(0).bytes(3_000_000)
SIZE = len(DATA)


class Line:
    """A reader that has the address of its one file, and reads it directly."""

    def __init__(self, hub: LocalHub, retry: RetryPolicy) -> None:
        hub.add_repo(REPO, {"main": {FILE: DATA}})
        self.hub = hub
        self.commit = hub.repositories[REPO].branches["main"].id
        self.reader = RangeReader(Repo(REPO, hub.endpoint, False), CommitFiles(self.commit, {FILE: SIZE}), retry=retry)
        assert self.read(0, 8) == DATA[:8]
        hub.requests.clear()

    def read(self, start: int, stop: int) -> bytes:
        buffer = np.empty(stop - start, np.uint8)
        self.reader.fetch([(Span(FILE, start, stop), buffer)])
        return buffer.tobytes()

    def asked(self) -> list[tuple[str, tuple[int, int | None] | None]]:
        return [(request.host, request.range) for request in self.hub.requests]


@pytest.fixture
def line(hub: LocalHub, retry: RetryPolicy) -> Iterator[Line]:
    line = Line(hub, retry)
    yield line
    line.reader.close()


class TestReading:
    def test_asks_the_storage_alone(self, line: Line) -> None:
        assert line.read(100, 2_000_000) == DATA[100:2_000_000]
        assert line.asked() == [("cdn", (100, 2_000_000))]
        assert line.reader.bytes_moved == 8 + 1_999_900

    def test_keeps_its_connection(self, line: Line) -> None:
        for at in range(0, 100, 10):
            assert line.read(at, at + 10) == DATA[at : at + 10]
        assert len({request.peer for request in line.hub.requests}) == 1

    def test_opens_another_where_the_host_hung_up_meanwhile(self, line: Line, pauses: list[float]) -> None:
        line.read(0, 10)
        [[connection]] = line.reader._shared.connections._idle.values()
        connection.sock.shutdown(2)
        assert line.read(10, 20) == DATA[10:20]
        assert pauses == []

    def test_leaves_no_socket_behind(self, line: Line) -> None:
        connections = Connections()
        address = line.reader._addresses[FILE]
        with connections.get(address, {"range": "bytes=0-9"}, timeout=5.0, pending=PendingReads()) as answer:
            buffer = bytearray(10)
            assert answer.read_into(memoryview(buffer)) == 10
            assert answer.read_into(memoryview(buffer)) == 0
        [[kept]] = connections._idle.values()
        assert kept.sock is not None
        del connections
        gc.collect()
        assert kept.sock is None


class TestFaults:
    @pytest.mark.parametrize("kind", ["short", "reset", "stall"])
    def test_goes_on_where_a_body_broke_off(self, line: Line, pauses: list[float], kind: str) -> None:
        line.reader._retry = replace(line.reader._retry, timeout=1.0 if kind == "stall" else 10.0)
        line.hub.add_fault(Fault(kind, FILE, host="cdn", keep=700_000, seconds=30.0))
        assert line.read(0, SIZE) == DATA
        (first, span), (second, _), (third, rest) = line.asked()
        assert (first, span) == ("cdn", (0, SIZE))
        assert (second, third) == ("hub", "cdn")
        assert rest is not None
        assert rest[1] == SIZE
        assert 0 < rest[0] <= 700_000
        assert line.reader.bytes_moved == 8 + SIZE
        assert pauses == [1.0]

    @pytest.mark.parametrize("kind", ["hang_up", "500", "502", "503", "504", "408", "429"])
    def test_tries_again_after(self, line: Line, pauses: list[float], kind: str) -> None:
        line.hub.add_fault(Fault(kind, FILE, host="cdn", retry_after="7" if kind in ("429", "503") else None))
        assert line.read(5, SIZE) == DATA[5:]
        assert pauses == [9.0 if kind in ("429", "503") else 1.0]

    @pytest.mark.parametrize("kind", ["400", "401", "403", "404", "expired"])
    def test_renews_an_address_without_waiting(self, line: Line, pauses: list[float], kind: str) -> None:
        line.hub.add_fault(Fault(kind, FILE, host="cdn"))
        assert line.read(5, SIZE) == DATA[5:]
        assert [host for host, _ in line.asked()] == ["cdn", "hub", "cdn"]
        assert pauses == []

    def test_really_expired(self, line: Line) -> None:
        line.hub.url_lifetime = 0.2
        line.reader._addresses.clear()
        line.read(0, 1)
        time.sleep(0.25)
        assert line.read(5, SIZE) == DATA[5:]

    def test_takes_a_whole_file_where_the_range_is_ignored(self, line: Line, pauses: list[float]) -> None:
        line.hub.add_fault(Fault("ignore_range", FILE, host="cdn", times=None))
        assert line.read(1_000_000, 1_000_010) == DATA[1_000_000:1_000_010]
        assert pauses == []

    def test_gives_up_on_bodies_that_are_too_short(self, line: Line) -> None:
        line.hub.add_fault(Fault("wrong_size", FILE, host="cdn", keep=10, times=None))
        with pytest.raises(NetworkError, match=f"the last time because the response ended {SIZE - 30} bytes early"):
            line.read(0, SIZE)

    def test_refuses_another_size(self, line: Line) -> None:
        line.reader._files = CommitFiles(line.commit, {FILE: SIZE + 1})
        with pytest.raises(
            CheckpointError, match=f"was listed with {SIZE + 1} bytes, but the host offers {SIZE}; open"
        ):
            line.read(0, 10)

    def test_names_what_failed(self, line: Line) -> None:
        connections, host = Connections(), line.hub.cdn_endpoint[7:]
        line.hub.add_fault(Fault("hang_up", FILE))
        with (
            pytest.raises(TransientError, match=f"^{host} gave RemoteDisconnected "),
            connections.get(line.reader._addresses[FILE], {}, timeout=5.0, pending=PendingReads()),
        ):
            pass
        with (
            pytest.raises(TransientError, match=r"^127.0.0.1:9 gave ConnectionRefusedError \("),
            connections.get("http://127.0.0.1:9/x", {}, timeout=5.0, pending=PendingReads()),
        ):
            pass

    def test_many_short_steps_lead_to_the_end(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(range_reader, "PROGRESS_BYTES", 100_000)
        line.hub.add_fault(Fault("short", FILE, host="cdn", keep=200_000, times=None))
        assert line.reader._retry.tries == 3
        assert line.read(0, SIZE) == DATA


class TestProxies:
    def test_are_gone_through(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        line.reader._addresses.clear()
        monkeypatch.setattr(range_reader, "is_reached_directly", lambda address: False)
        monkeypatch.setattr(http.client.HTTPConnection, "request", None)
        for at in (0, 10):
            assert line.read(at, at + 10) == DATA[at : at + 10]
        assert [host for host, _ in line.asked()] == ["hub", "cdn"] * 2

    @pytest.mark.parametrize(
        ("environment", "direct"),
        [
            ({}, True),
            ({"https_proxy": "http://proxy:3128"}, False),
            ({"http_proxy": "http://proxy:3128"}, True),
            ({"all_proxy": "socks5://proxy:1080"}, False),
            ({"https_proxy": "http://proxy:3128", "no_proxy": "example.org"}, True),
        ],
    )
    def test_are_found(self, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], direct: bool) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert is_reached_directly("https://cdn.example.org/file?x=1") == direct


class TestHubClient:
    def test_the_library_has_the_names_that_tell_its_client(self) -> None:
        assert uses_default_client(), "huggingface_hub renamed its client factory: mend connections.uses_default_client"
        set_client_factory(httpx2.Client)
        try:
            assert not uses_default_client()
            assert not is_reached_directly("https://cdn.example.org/file")
        finally:
            set_client_factory(default_client_factory)


class TestAnotherWay:
    def test_a_client_of_the_users_own_fetches_everything(self, line: Line) -> None:
        seen: list[str] = []

        def factory() -> httpx2.Client:
            hooks = {"request": [lambda request: seen.append(request.url.netloc.decode())]}
            return httpx2.Client(follow_redirects=True, event_hooks=hooks)

        set_client_factory(factory)
        try:
            line.reader._addresses.clear()
            for at in range(0, 30, 10):
                assert line.read(at, at + 10) == DATA[at : at + 10]
        finally:
            set_client_factory(default_client_factory)
        assert len(seen) == len(line.asked()) == 6  # the hub, and the storage that it names, each time

    def test_a_host_that_cannot_be_reached_directly_is_left_to_the_library(self, line: Line) -> None:
        line.reader._addresses[FILE] = "http://127.0.0.1:9/nobody"
        for at in range(0, 30, 10):
            assert line.read(at, at + 10) == DATA[at : at + 10]
        assert FILE not in line.reader._addresses
        assert {host for host, _ in line.asked()} == {"hub", "cdn"} and len(line.asked()) == 6

    def test_closing_wakes_who_waits_for_a_silent_host(self, line: Line) -> None:
        fault = line.hub.add_fault(Fault("stall", host="cdn", times=None, keep=10, seconds=30.0))
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(line.read, 0, 1000)
            while not fault.struck:
                time.sleep(0.01)
            began = time.monotonic()
            line.reader.close()
            with pytest.raises(NetworkError):
                reading.result()
        assert time.monotonic() - began < 2
