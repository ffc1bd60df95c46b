"""A repo joined with a list: each step is opened where it exists."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import close_session

from olmo_dynamics.checkpoints import MemorySource, Source
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.listed import ListedSource
from olmo_dynamics.errors import UnknownRevisionError, UnknownSourceError
from olmo_dynamics.frames.run import Run
from tests.checkpoints.conftest import CONFIG, SINGLE, pack, single_files
from tests.checkpoints.http.test_web_directory import _Handler


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server with one native directory, `step2000`."""
    folder = tmp_path / "native" / "step2000"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(json.dumps(CONFIG).encode())
    (folder / "model.safetensors").write_bytes(pack(SINGLE))
    handler = type("Handler", (_Handler,), {"folder": tmp_path / "native", "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    close_session()
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(server: str, tmp_path: Path) -> Source:
    rows = "".join(f"{step},{server}/step{step}/\n" for step in (1000, 2000, 3000))
    (tmp_path / "list.csv").write_text("Step,Checkpoint Directory\n" + rows)
    repo = MemorySource({"step1000-tokens4B": single_files(), "main": single_files()}, "tiny-org/tiny")
    retry = RetryPolicy(tries=2, timeout=10.0, sleep=lambda *_: None)
    return ListedSource(repo, [tmp_path / "list.csv"], retry=retry)


def test_steps_come_from_whichever_has_them(source: Source) -> None:
    assert [each.name for each in source.revisions()] == ["step1000-tokens4B", "step2000", "step3000", "main"]
    with source.open(source.find("step1000-tokens4B")) as ours, source.open(source.find("step2000")) as native:
        assert (ours.source, native.revision.name) == ("tiny-org/tiny", "step2000")
        assert list(native.tensors) == list(ours.tensors)
        name = "model.norm.weight"
        assert native.read(native.tensors[name]).tobytes() == ours.read(ours.tensors[name]).tobytes()


def test_what_is_listed_and_not_there(source: Source, server: str) -> None:
    with pytest.raises(UnknownSourceError, match=f"^no checkpoint at {server}/step3000: "):
        source.open(source.find("step3000"))
    with pytest.raises(UnknownRevisionError, match=r"^tiny-org/tiny has no revision 'step4000'; "):
        source.find("step4000")


def test_a_run_with_lists_has_their_steps(source: Source, tmp_path: Path) -> None:
    repo = MemorySource({"step1000-tokens4B": single_files()}, "tiny-org/tiny")
    run = Run(repo, lists=[tmp_path / "list.csv"])
    assert run.name == "tiny-org/tiny"
    assert run.revisions["format"].to_list() == ["safetensors", "olmo-core", "olmo-core"]
    assert [each.step for each in run.select("step2000..")] == [2000, 3000]
