"""`fork` and `batches` on the command line: a plan, a fork, what it saw, and one clear line for what cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from olmo_dynamics.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `olmo-dyn ARGUMENTS` in this process."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["olmo-dyn", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def parent(shared: Path) -> tuple[str, str, str]:
    """A native revision, the option for its data, and its data."""
    native = shared / "data" / "native"
    return f"{native}/olmo/tiny-olmo2@step40-unsharded", "--data", str(native / "tokens" / "train.npy")


def test_a_fork_is_planned_then_made_then_continued(run: Run, parent: tuple[str, str, str], tmp_path: Path) -> None:
    wanted = ("fork", *parent, "--out", str(tmp_path / "a"), "--steps", "2", "--batch", "2x128", "--schedule", "linear")
    code, out, err = run(*wanted, "--dry-run")
    assert (code, err) == (0, "nothing was written\n") and not (tmp_path / "a").exists()
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [
        ["weights", "restored"],
        ["moments", "restored"],
        ["schedule", "replaced"],
    ]
    code, out, _ = run(*wanted, "--format", "json", "--quiet")
    made = json.loads(out)
    assert (code, made["saved_at"], Path(made["last"]).name) == (0, [40, 41, 42], "step42-tokens82432")
    assert made["first_loss"] == pytest.approx(made["expected"], abs=0.5)
    assert run(*wanted)[0] == 0
    code, out, err = run("revisions", str(tmp_path / "a"), "--format", "json")
    assert [json.loads(line)["step"] for line in out.splitlines()] == [40, 41, 42]


def test_batches_are_text_or_ids(run: Run, parent: tuple[str, str, str], shared: Path) -> None:
    tokenizer = shared / "data" / "native" / "tokens" / "tok.json"
    code, out, _ = run("batches", *parent, "--tokenizer", str(tokenizer), "--format", "json", "--count", "2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["step"] for row in rows] == [41] * 16 + [42] * 16
    assert "self." in "".join(row["text"] for row in rows)
    code, out, err = run("batches", *parent, "--format", "json")
    assert len(json.loads(out.splitlines()[0])["text"].split()) == 128 and "has no tokenizer.json" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--batch", "2by3"), "--batch wants sequences x tokens, such as 16x128; got '2by3'"),
        (("--save", "1,x"), "--save wants whole numbers, such as 1,10,100; got '1,x'"),
        (("--order", "random"), "order must be one of parent, olmo, olmo-core, shuffled, sequential; got 'random'"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, parent: tuple[str, str, str], tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    out = str(tmp_path / "a")
    assert run("fork", *parent, "--out", out, "--steps", "2", *changes) == (2, "", f"olmo-dyn: {message}\n")
    bare = run("fork", "somewhere", *parent[1:], "--out", out, "--steps", "2")
    assert bare == (2, "", "olmo-dyn: wanted SOURCE@REVISION, such as allenai/OLMo-2-0425-1B@main; got 'somewhere'\n")
