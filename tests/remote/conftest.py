"""A server of buckets on this machine, with one bucket for each test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPConnection
from itertools import count
from pathlib import Path

import pytest

from olmo_dynamics.files import ObjectPath, as_place, buckets
from tests.conftest import ROOT
from tests.remote.faulty import FaultyServer

_NUMBERS = count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a moto server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with bucket_server(port, tmp_path_factory.mktemp("moto") / "log.txt") as address:
        yield address


@contextmanager
def bucket_server(port: int, log: Path) -> Iterator[str]:
    """A moto server on a port of this machine; the test is skipped where what it needs is not installed."""
    pytest.importorskip("obstore", reason="the extra [remote] is not installed")
    for needed in ("moto", "flask"):
        pytest.importorskip(needed, reason="moto[server] is not installed")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.remote.bucket_server", str(port)], cwd=ROOT, stdout=out, stderr=out
        )
        try:
            _wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    stop = time.monotonic() + 60
    while time.monotonic() < stop and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the server of buckets did not start: {log.read_text()}")


def make_bucket(server: str) -> str:
    """A new bucket of a server; returns its address."""
    name = f"bucket-{next(_NUMBERS)}"
    connection = HTTPConnection(server.removeprefix("http://"), timeout=30)
    connection.request("PUT", f"/{name}", headers={"host": server.removeprefix("http://")})
    assert connection.getresponse().status == 200
    connection.close()
    return f"s3://{name}"


def upload(folder: Path, address: str) -> str:
    """Put a folder under an address of a bucket; returns the address."""
    place = as_place(address)
    assert isinstance(place, ObjectPath)
    place.tree.write_all(
        (f"{place.key}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    )
    return address


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat a failed request at once: how long a client waits before it changes no answer."""
    monkeypatch.setattr(buckets, "_PAUSES", (0.01,) * len(buckets._PAUSES))
    pauses = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=20), "base": 2}
    monkeypatch.setitem(buckets._TRIES, "backoff", pauses)


ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
"""Credentials that no real provider knows, and no way to others."""


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of that account."""
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(server: str, account: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a new bucket, which the environment's server has."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    return make_bucket(server)


@pytest.fixture
def faulty(server: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """The same bucket, behind faults."""
    with FaultyServer(server) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.endpoint)
        yield front
