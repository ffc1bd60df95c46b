"""`docs/start.md` from an empty folder: every command and every block, in the order of the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from olmo_dynamics.experiments.demo import SMALL, STANDARD, DemoSize
from olmo_dynamics.training.checkpoint import checkpoint_name
from tests.conftest import REVISIONS, ROOT
from tests.documents.recipe import Reader, fences
from tests.hub import LocalHub

PAGE = ROOT / "docs" / "start.md"
DEMO = """
from olmo_dynamics.cli.demo import demo
from olmo_dynamics.experiments.demo import SMALL, run_demo
[default] = [option.default for option in demo.params if option.name == "out"]
run_demo(default, size=SMALL, quiet=True)
"""


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


def middle_of(size: DemoSize) -> str:
    """The revision in the middle of the demo's run."""
    step = max(step for step in size.recipe.save_at if 2 * step <= size.steps)
    return checkpoint_name(step, step * size.recipe.tokens_per_step)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.enable_socket
@pytest.mark.parametrize("size", ["SMALL", "STANDARD"])
def test_every_command_runs_from_an_empty_folder(reader: Reader, size: str) -> None:
    small = size == "SMALL"
    ran = []
    for kind, text in fences(PAGE):
        if kind == "python":
            reader.shell(["python", "-c", text])
        for command in commands(text) if kind == "text" else ():
            ran.append(command[1])
            if command[1:] == ["demo"] and small:
                reader.shell(["python", "-c", DEMO])
            else:
                reader.shell(
                    [word.replace(middle_of(STANDARD), middle_of(SMALL)) if small else word for word in command]
                )
    assert ran == ["demo", "revisions", "collect", "collect", "report", "fork", "report"]
    assert (reader.folder / "cache" / "demo" / "report.html").is_file()
    assert (reader.folder / "cache" / "forks" / "anneal").is_dir()
