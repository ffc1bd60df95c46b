from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest

from olmo_dynamics.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def called(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Outcome:
    """Run `olmo-dyn ARGUMENTS` in this process: exit code, stdout, stderr; a bug is raised."""
    monkeypatch.setattr(sys, "argv", ["olmo-dyn", *arguments])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run `olmo-dyn ARGUMENTS` in this process: exit code, stdout, stderr."""
    return partial(called, capsys, monkeypatch)
