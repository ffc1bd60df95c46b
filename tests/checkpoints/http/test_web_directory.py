"""Directories on a plain web server: no listing, only files by name and parts of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from huggingface_hub import close_session

from olmo_dynamics.checkpoints.formats import find_format
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.http.web_directory import WebDirectory
from olmo_dynamics.checkpoints.tensors import Span
from olmo_dynamics.errors import NetworkError
from tests.checkpoints.formats.conftest import assert_same, tensors_of
from tests.checkpoints.formats.test_one_model import TINY
from tests.checkpoints.formats.writing import (
    core_experiment,
    native_config,
    to_core,
    to_native,
    write_core,
    write_native,
)


class _Handler(BaseHTTPRequestHandler):
    """Files of a folder, by range; a file that does not exist is `missing`."""

    protocol_version = "HTTP/1.1"
    folder: Path
    address: str
    missing = 404
    knows_head = True
    seen: list[tuple[str, str, dict[str, str]]]

    def do_HEAD(self) -> None:
        if self.knows_head:
            self._answer(send=False)
        else:
            self._refuse(405)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, *, send: bool) -> None:
        self.seen.append((self.command, self.path, dict(self.headers)))
        path = self.folder / unquote(self.path).lstrip("/")
        if not path.is_file():
            self._refuse(self.missing)
            return
        data, wanted = path.read_bytes(), self.headers.get("range")
        self.send_response(206 if wanted else 200)
        if wanted:
            first, last = map(int, wanted.removeprefix("bytes=").split("-"))
            self.send_header("Content-Range", f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}")
            data = data[first : last + 1]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if send:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path, **others: Any) -> Iterator[tuple[WebDirectory, type[_Handler]]]:
    handler = type("Handler", (_Handler,), {"folder": folder, "seen": [], **others})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    retry = RetryPolicy(tries=2, timeout=2, sleep=lambda *_: None)
    handler.address = f"http://127.0.0.1:{server.server_port}"
    directory = WebDirectory(f"{handler.address}/", retry=retry)
    try:
        yield directory, handler
    finally:
        directory.close()
        close_session()
        server.shutdown()
        server.server_close()


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {
        "model.embed_tokens.weight": torch.randn(32, 16),
        "model.norm.weight": torch.randn(16),
        **{
            f"model.layers.0.self_attn.{letter}_proj.weight": torch.randn(16 if letter == "q" else 8, 16)
            for letter in "qkv"
        },
    }


@pytest.mark.parametrize("missing", [404, 403])
@pytest.mark.parametrize("knows_head", [True, False])
def test_a_native_directory(missing: int, knows_head: bool, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = write_native(tmp_path / "step7-unsharded", native_config(TINY), to_native(state))
    with served(folder, missing=missing, knows_head=knows_head) as (directory, handler):
        found = find_format(directory.read_spans, directory.files)
        assert found is not None
        assert found.name == "olmo"
        assert_same(tensors_of(found.weights), state)
        assert found.trainer["global_step"] == 7
        assert found.optimizer is not None
        assert not any("authorization" in {name.lower() for name in headers} for _, _, headers in handler.seen)


def test_a_core_directory_tensor_by_tensor(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state |= {"lm_head.weight": torch.randn(30_000, 16)}
    folder = write_core(tmp_path / "step7", core_experiment(TINY), to_core(state))
    with served(folder) as (directory, _):
        found = find_format(directory.read_spans, directory.files)
        assert found is not None
        assert found.weights.infos.keys() == state.keys()
        before = directory.bytes_moved
        raw = found.weights.read("model.norm.weight")
        assert raw.tobytes() == state["model.norm.weight"].numpy().tobytes()
        assert directory.bytes_moved - before < 4096  # of a file of four megabytes


def test_a_size_is_asked_once(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_bytes(b"text")
    with served(tmp_path) as (directory, handler):
        assert directory.files["a b.txt"] == directory.files["a b.txt"] == 4
        assert "absent" not in directory.files
        assert "absent" not in directory.files
        assert list(directory.files) == ["a b.txt"]
        assert len(directory.files) == 1
        assert [path for _, path, _ in handler.seen] == ["/a%20b.txt", "/absent"]


def test_parts_of_a_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text")
    with served(tmp_path) as (directory, _):
        assert directory.files["a.txt"] == 4
        [raw] = directory.read_spans([Span("a.txt", 1, 3)])
        assert raw.tobytes() == b"ex"
        assert not raw.flags.writeable


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        directory = WebDirectory(address, retry=RetryPolicy(tries=2, sleep=lambda *_: None))
        with pytest.raises(NetworkError, match=r"^asking 127.0.0.1:\d+ for .*/model.pt failed 2 times"):
            _ = "model.pt" in directory.files
    directory.close()
    close_session()
