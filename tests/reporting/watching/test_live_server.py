"""The live page's server: it answers its own page alone, and follows a store that grows."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from olmo_dynamics.cli.watch import watch
from olmo_dynamics.errors import OptionError, StoreError
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.reporting.watching import LiveServer
from olmo_dynamics.reporting.watching.live_access import Access
from tests.store.synthetic import REVISIONS, add, new_store
from tests.store.test_layout import message

pytestmark = pytest.mark.enable_socket
HOST = {"Host": "127.0.0.1:80"}


@contextmanager
def serving(path: Path) -> Iterator[LiveServer]:
    """A server that answers in a thread."""
    with LiveServer(path) as server:
        thread = Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


def asked(
    server: LiveServer, target: str, method: str = "GET", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    """The status, text and headers of the answer to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=10)
    connection.request(method, target, headers={name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), answer.headers
    connection.close()
    return found


def state(server: LiveServer, **fields: str) -> dict[str, object]:
    query = "&".join(f"{name}={value}" for name, value in fields.items())
    status, text, _ = asked(server, f"{urlsplit(server.url).path}state?{query}")
    assert status == 200
    return json.loads(text)


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("POST", "/t/", HOST, 405),
        ("HEAD", "/t/", HOST, 405),
        ("GET", "/t/", {}, 403),
        ("GET", "/t/", {"Host": "evil.example:80"}, 403),
        ("GET", "/t/", {"Host": "127.0.0.1.evil.example"}, 403),
        ("GET", "/t/", {"Host": "localhost:80@evil.example"}, 403),
        ("GET", "/t/", HOST | {"Origin": "http://evil.example"}, 403),
        ("GET", "/t/", HOST | {"Origin": "null"}, 403),
        ("GET", "/t/", HOST | {"Origin": "http://127.0.0.1:81"}, 403),
        ("GET", "/t/", HOST | {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", "/", HOST, 404),
        ("GET", "/t", HOST, 404),
        ("GET", "/s/", HOST, 404),
        ("GET", "/t/../../etc/passwd", HOST, 404),
        ("GET", "/t/%2e%2e/state", HOST, 404),
        ("GET", "/t/other", HOST, 404),
        ("GET", "//[", HOST, 404),
        ("GET", "/t/" + "?" * 5000, HOST, 414),
        ("GET", "/t/", HOST, 0),
        ("GET", "/t/state?quantity=loss/cross_entropy", HOST | {"Origin": "http://127.0.0.1:80"}, 0),
        ("GET", "/t/", {"Host": "localhost:9000", "Sec-Fetch-Site": "none"}, 0),  # through a tunnel
    ],
)
def test_only_its_own_page_is_answered(method: str, target: str, headers: dict[str, str], status: int) -> None:
    refused = Access("t").refusal(method, target, headers)
    assert (refused[0] if refused else 0) == status


def test_tokens_are_long_and_differ() -> None:
    assert len({Access().token for _ in range(8)}) == 8
    assert len(Access().token) >= 43  # 256 bits


def test_the_server_refuses_over_the_wire(filled: RecordedStore, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(filled.path) as server:
        page = urlsplit(server.url).path
        assert urlsplit(server.url).hostname == "127.0.0.1"
        status, text, headers = asked(server, page)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in text and "connect-src 'self'" in text
        assert page.strip("/") not in text
        statuses = [
            asked(server, page, "POST")[0],
            asked(server, page, "DELETE")[0],
            asked(server, page, "TRACE")[0],
            asked(server, page, Host="evil.example")[0],
            asked(server, page, origin="http://evil.example")[0],
            asked(server, "/wrong/")[0],
            asked(server, page + "../zarr.json")[0],
        ]
    assert statuses == [405, 405, 501, 403, 403, 404, 404]
    assert capfd.readouterr() == ("", "")  # addresses hold the token, so none is printed


def test_a_store_that_grows_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with serving(path) as server:
        assert state(server)["told"] == "waiting for the first revision"
        store = new_store(path, ("loss", "parameters"))
        store.plan(REVISIONS)
        assert state(server)["told"] == "0 revisions, 4 missing"
        add(store, REVISIONS[0], 0)
        first = state(server, quantity="parameters/rms")
        assert (first["told"], first["menus"][0]["value"]) == ("1 revision, 3 missing", "parameters/rms")
        seen = state(server, quantity="parameters/rms", since=str(first["version"]))
        assert "spec" not in seen and seen["version"] == first["version"]
        add(store, REVISIONS[1], 1)
        grown = state(server, quantity="parameters/rms", since=str(first["version"]))
        assert grown["told"] == "2 revisions, 2 missing" and grown["spec"] != first["spec"]
        assert {each.name for each in path.iterdir()} == {each.name for each in store.path.iterdir()}


def test_a_damaged_store_is_told_and_not_raised(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    path.mkdir()
    (path / "zarr.json").write_text("{")
    with serving(path) as server:
        found = state(server)
    assert found["version"] == "" and str(path) in str(found["told"])


def test_a_port_that_is_taken_and_a_path_that_is_none(filled: RecordedStore, tmp_path: Path) -> None:
    with LiveServer(filled.path) as server:
        port = urlsplit(server.url).port
        with pytest.raises(OptionError, match=rf"^port must be free, or 0 for any \(got {port}: ") as caught:
            LiveServer(filled.path, port=port)
    assert caught.value.typed.startswith(f"--port must be free, or 0 for any (got {port}: ")
    place = tmp_path / "no" / "run"
    expected = f"there is no store or run at {place}; give the folder that collect or fork writes, or will write"
    with pytest.raises(StoreError, match=message(expected)):
        LiveServer(place)


def test_the_command_prints_the_address(filled: RecordedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveServer, "serve", lambda self: None)
    found = json.loads(CliRunner().invoke(watch, [str(filled.path), "--format", "json", "--quiet"]).output)
    assert found["watching"] == str(filled.path)
    assert found["url"].startswith("http://127.0.0.1:")
