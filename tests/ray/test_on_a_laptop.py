"""The page "More than one machine", followed on this one: its commands for a laptop run as they are written."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt

from olmo_dynamics.cli import cli
from olmo_dynamics.collecting import collect
from olmo_dynamics.frames import open_store
from olmo_dynamics.progress import Progress
from tests.conftest import ROOT
from tests.ray.cluster import environment

[PAGE] = (ROOT / "docs").rglob("more-than-one-machine.md")
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def blocks() -> list[str]:
    """The commands under the headings "Try it on a laptop"."""
    found, heading = [], ""
    tokens = MarkdownIt().parse(PAGE.read_text(encoding="utf-8"))
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        heading = following.content if token.type == "heading_open" else heading
        if token.type == "fence" and token.info == "bash" and heading == "Try it on a laptop":
            found.append(token.content)
    return found


@pytest.fixture
def folder(small_run: Path, tmp_path: Path) -> Path:
    """A folder with a demo run, and the commands of this Python on the path."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "olmo-dyn"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m olmo_dynamics "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    shutil.copytree(small_run, tmp_path / "cache" / "demo")
    return tmp_path


@pytest.fixture
def place() -> Iterator[Path]:
    """Ray's folder, with a short path; processes that name it are ended."""
    place = Path(tempfile.mkdtemp(prefix="olmo-ray-"))
    yield place
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(place).encode() in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(place, ignore_errors=True)


def follow(block: str, folder: Path, **variables: str) -> str:
    """What the commands of a block print; nodes that go on outlast them, so that it goes into a file."""
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    log = folder / "log.txt"
    with log.open("w") as out:
        command = ["bash", "-e", "-c", block]
        environ = environment(PATH=path, **variables)
        code = subprocess.run(command, cwd=folder, env=environ, stdout=out, stderr=out, check=False).returncode
    said = log.read_text(encoding="utf-8")
    assert code == 0, said
    return said


def commands() -> list[list[str]]:
    """Every command of the program on the page, as words."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line.removesuffix("&"), comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["olmo-dyn"]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_program_knows_every_command_of_the_page(words: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command = found
    assert command.make_context(command.name, words).params


@pytest.mark.slow
def test_two_processes_share_the_work(folder: Path) -> None:
    shared, *_ = blocks()
    said = follow(shared, folder)
    names = sorted(path.name for path in (folder / "cache" / "demo" / "run").iterdir() if path.is_dir())
    assert open_store(folder / "parts.zarr").missing == ()
    assert sorted(open_store(folder / "parts.zarr").done) == names
    assert re.search(rf"^done +{len(names)} revisions$", said, re.MULTILINE)


@pytest.mark.slow
@NEEDS_RAY
def test_ray_by_itself_and_a_cluster_of_two_nodes(folder: Path, place: Path) -> None:
    _, alone, cluster = blocks()
    *cluster, last = cluster.splitlines()
    assert last == "ray stop"  # it ends all clusters of a machine, so that the fixture ends these nodes
    whole = collect(folder / "cache" / "demo" / "run", out=folder / "local.zarr", progress=Progress())
    for block in (alone, "\n".join(cluster)):
        said = follow(block, folder, RAY_TMPDIR=str(place), HOME=str(folder))
        found = open_store(folder / "demo.zarr")
        assert found.done == whole.done
        assert found.table("parameters").equals(whole.table("parameters"))
        shutil.rmtree(folder / "demo.zarr")
    assert "measuring on 2 workers of 2 nodes, each with 1 CPU" in said
