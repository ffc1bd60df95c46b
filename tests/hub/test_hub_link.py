"""One rate over all connections, kept to a few per cent; and a hub in a separate process."""

from __future__ import annotations

import os
import threading
import time
from urllib.request import Request, urlopen

from tests.hub import LocalHub
from tests.hub.process import HubProcess, sent_spans, set_total_rate

FILE = "model.safetensors"


def publish(hub: LocalHub, size: int) -> None:
    hub.add_repo("org/name", {"main": {FILE: bytes(size)}})


def process_id(hub: LocalHub) -> int:
    return os.getpid()


def fetch(endpoint: str, start: int, stop: int) -> None:
    request = Request(f"{endpoint}/org/name/resolve/main/{FILE}", headers={"Range": f"bytes={start}-{stop - 1}"})
    with urlopen(request) as response:
        while response.read(1 << 16):
            pass


def seconds_to_fetch(endpoint: str, size: int) -> float:
    """Fetch over four connections at once."""
    part = size // 4
    threads = [threading.Thread(target=fetch, args=(endpoint, at * part, (at + 1) * part)) for at in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def test_four_connections_share_a_rate(hub: LocalHub) -> None:
    publish(hub, 8 << 20)
    assert hub.total_rate is None
    hub.total_rate = 10e6
    expected = (8 << 20) / 10e6
    assert 0.93 * expected < seconds_to_fetch(hub.endpoint, 8 << 20) < 1.5 * expected


def test_a_hub_may_have_a_process_of_its_own() -> None:
    with HubProcess(publish, 4 << 20) as hub:
        assert hub.call(process_id) != os.getpid()
        hub.call(set_total_rate, 20e6)
        assert seconds_to_fetch(hub.endpoint, 4 << 20) > 0.9 * (4 << 20) / 20e6
        part = 1 << 20
        assert sorted(hub.call(sent_spans)) == [(FILE, at, at + part) for at in range(0, 4 * part, part)]
        assert hub.call(sent_spans) == []
