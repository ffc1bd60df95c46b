"""`docs/tutorial/start.md` from an empty folder: each command and block, with the demo at its own size (see `test_newcomer`)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REVISIONS, ROOT
from tests.documents.recipe import Reader, fences
from tests.hub import LocalHub

PAGE = ROOT / "docs" / "tutorial" / "start.md"


@pytest.fixture
def reader(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in an empty folder; the hub is a local one that holds a tiny run under the name on the page."""
    with LocalHub() as hub:
        hub.add_repo("allenai/OLMo-2-0425-1B", {name: tiny_run / name for name in REVISIONS})
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        (tmp_path / "study").mkdir()
        monkeypatch.chdir(tmp_path / "study")
        yield Reader(tmp_path / "study")


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block; a line that ends with a backslash goes on in the next."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("olmo-dyn "):
            yield shlex.split(line, comments=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.enable_socket
def test_every_command_runs_from_an_empty_folder(reader: Reader) -> None:
    ran = []
    for kind, text in fences(PAGE):
        if kind == "python":
            reader.shell(["python", "-c", text])
        for command in commands(text) if kind == "text" else ():
            ran.append(command[1])
            reader.shell(command)
    assert ran == ["demo", "revisions", "collect", "collect", "report", "fork", "report"]
    assert (reader.folder / "cache" / "demo" / "report.html").is_file()
    assert (reader.folder / "cache" / "forks" / "linear").is_dir()
