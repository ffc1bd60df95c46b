"""Fetching eight revisions without computing, operation by operation: CPU seconds of all threads, each beside a floor.

Floors are measured in the same run, against the same hub: a plain socket and http.client do the least that each operation needs.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from time import thread_time
from urllib.parse import urlsplit

import numpy as np

from benchmarks.forward_peers import token_file
from benchmarks.hub_process import REPO, served
from benchmarks.network import RATES, SEQUENCES
from benchmarks.operations import Clock, Place, print_operations
from olmo_dynamics.checkpoints import integrity
from olmo_dynamics.checkpoints.http import connections
from olmo_dynamics.checkpoints.http.range_reader import RangeReader
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collection.fetch_plan import Bounds
from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.prefetch import Prefetcher

RATE = RATES["400 MB/s"]
_MOST = 1 << 20  # bytes of one call of a floor

RECEIVING, HASHING, ASKING, OPENING = "receiving", "hashing", "requests and their answers", "opening revisions"
PLACES: dict[str, list[Place]] = {
    RECEIVING: [(connections.DirectResponse, "read_into")],
    HASHING: [(integrity._Shard, "feed")],
    ASKING: [(RangeReader, "_exchange")],
    OPENING: [(Opener, "open")],
}


def report(folder: Path) -> None:
    """Fetch, and print the table."""
    with served(str(folder), RATE) as endpoint:
        source = HubSource(REPO, endpoint=endpoint, token=False)
        options = CollectOptions(tokens=token_file(folder, SEQUENCES), batch=(SEQUENCES, 512), dtype="bfloat16")
        opener = Opener(source, options, Bounds.of(1 << 30))
        revisions = source.revisions()
        opener.set_up(revisions)
        moved, asked, clock = 0, list[int](), Clock()
        before, hub = os.times(), endpoint.cpu_seconds()
        with (
            clock.watching(PLACES),
            counting_requests(asked),
            Prefetcher(opener.open, revisions, opener.bounds) as fetched,
        ):
            for stream in fetched:
                for step in stream.opened.fetch_plan.steps:
                    moved += sum(raw.nbytes for _, raw in stream.tensors(step))
        after, hub = os.times(), endpoint.cpu_seconds() - hub
        answer = request_seconds(endpoint, folder)
    floors = {
        RECEIVING: (receiving_seconds(moved), "receiving as many bytes into 1 MiB that stays in a cache"),
        HASHING: (hashing_seconds(moved), "one call of the same library for each MiB"),
        ASKING: (answer * len(asked), "as many requests by http.client for one byte"),
        OPENING: (answer * 3 * len(revisions), "three such requests for each"),
    }
    whole = after.user + after.system - before.user - before.system
    print_operations(f"Fetching {moved / 1e9:.1f} GB at {RATE / 1e6:.0f} MB/s", clock.seconds, floors, whole)
    print(f"{len(asked)} requests; the hub's process took {hub:.2f} s of CPU time beside these")


@contextmanager
def counting_requests(asked: list[int]) -> Iterator[None]:
    """Count the ranges that are asked for."""
    kept = RangeReader._count_request

    def counted(reader: RangeReader) -> None:
        asked.append(1)
        kept(reader)

    RangeReader._count_request = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        RangeReader._count_request = kept  # type: ignore[method-assign]


def request_seconds(endpoint: str, folder: Path) -> float:
    """CPU seconds of this thread for one range of one byte, over a connection that is kept."""
    file, turns = next(folder.glob("*.safetensors")).name, 200
    connection = HTTPConnection(urlsplit(endpoint).netloc)
    started = thread_time()
    for _ in range(turns):
        connection.request("GET", f"/{REPO}/resolve/step0/{file}", headers={"Range": "bytes=0-0"})
        connection.getresponse().read()
    seconds = thread_time() - started
    connection.close()
    return seconds / turns


def receiving_seconds(count: int) -> float:
    """CPU seconds of the receiver for so many bytes from a socket of this machine, into a buffer that stays in a cache."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=_send, args=(server.getsockname(), count))
        sender.start()
        receiver, _ = server.accept()
        buffer, left, started = memoryview(bytearray(_MOST)), count, thread_time()
        with receiver:
            while left:
                left -= receiver.recv_into(buffer[: min(left, _MOST)])
        seconds = thread_time() - started
        sender.join()
    return seconds


def _send(address: tuple[str, int], count: int) -> None:
    piece = memoryview(bytes(_MOST))
    with socket.create_connection(address) as connection:
        while count:
            count -= connection.send(piece[: min(count, _MOST)])


def hashing_seconds(count: int) -> float:
    """CPU seconds of SHA-256 over so many bytes."""
    piece, digest, started = np.zeros(_MOST, np.uint8).data, hashlib.sha256(), thread_time()
    for _ in range(round(count / _MOST)):
        digest.update(piece)
    return thread_time() - started
