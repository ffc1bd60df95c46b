"""`fork` and `batches` on the command line: a plan, a fork, what it saw, and one clear line for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]


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


def test_batches_are_text_or_ids(run: Run, parent: tuple[str, str, str], shared: Path, tmp_path: Path) -> None:
    tokenizer = shared / "data" / "native" / "tokens" / "tok.json"
    code, out, _ = run("batches", *parent, "--tokenizer", str(tokenizer), "--format", "json", "--count", "2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["step"] for row in rows] == [41] * 16 + [42] * 16
    assert "self." in "".join(row["text"] for row in rows)
    code, out, err = run("batches", *parent, "--format", "json", "--out", str(tmp_path / "step41.npy"))
    written = np.load(tmp_path / "step41.npy")
    assert written.dtype == np.uint32 and [" ".join(map(str, row)) for row in written.tolist()] == [
        json.loads(line)["text"] for line in out.splitlines()
    ]
    assert len(json.loads(out.splitlines()[0])["text"].split()) == 128 and "has no tokenizer.json" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--batch", "2by3"), "--batch must be sequences x tokens, such as 16x128 (got '2by3')"),
        (("--save", "1,x"), "--save must be whole numbers, such as 1,10,100 (got '1,x')"),
        (("--order", "random"), "order must be one of parent, olmo, olmo-core, shuffled, sequential (got 'random')"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Run, parent: tuple[str, str, str], tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    out = str(tmp_path / "a")
    assert run("fork", *parent, "--out", out, "--steps", "2", *changes) == (2, "", f"olmo-dyn: {message}\n")
    bare = run("fork", "somewhere", *parent[1:], "--out", out, "--steps", "2")
    assert bare == (
        2,
        "",
        "olmo-dyn: the argument must be SOURCE@REVISION, such as allenai/OLMo-2-0425-1B@main (got 'somewhere')\n",
    )


def test_a_config_file_gives_options_and_the_command_line_wins(
    run: Run, parent: tuple[str, str, str], tmp_path: Path
) -> None:
    config = tmp_path / "fork.toml"
    config.write_text(
        f'data = ["{parent[2]}"]\nsteps = 8\nout = "{tmp_path / "a"}"\nschedule = "wsd"\ndecay-steps = 3\nlr = 1e-3\n'
        'batch = "2x128"\nbatch-warmup = "2:4"\nbetas = [0.8, 0.9]\nsave = [2, 4]\nno-decay = ["*norm*", "lm_head*"]\n'
        "mask-documents = true\nmicro-batch = 2\nactivation-checkpointing = true\ncompile = false\n"
    )
    wanted = ("fork", parent[0], "--config", str(config), "--dry-run", "--format", "json")
    code, out, _ = run(*wanted, "--lr", "2e-3")
    made = json.loads(out)
    assert code == 0 and made["saved_at"] == [40, 42, 44, 48] and made["tokens"] == 128 * (2 * 2 + 6 * 4)
    values = {field["name"]: (field["status"], field["value"]) for field in made["fields"]}
    assert values["schedule"][1].startswith("wsd over steps from 40: 0.002, from 5 on (linear), down to 0 at 8")
    assert values["betas, eps"] == ("replaced", "(0.8, 0.9), 1e-08")
    assert values["weight decay"] == ("replaced", "0.1, none on *norm*, lm_head*")
    assert values["document masking"] == ("replaced", "attention within documents")
    assert made["memory"].startswith("3.7 MB + ") and made["time"].startswith(("at least ", "under 1 s"))
    config.write_text("shedule = 'wsd'\n")
    code, _, err = run(*wanted)
    assert code == 2 and err.startswith(f"olmo-dyn: {config}: unknown option 'shedule'; did you mean 'schedule'?\n")
    config.write_text("steps = \n")
    code, _, err = run(*wanted)
    assert code == 2 and err.startswith(f"olmo-dyn: --config must be a TOML file; {config} is not: ")


def test_batches_of_the_past_and_of_text(run: Run, parent: tuple[str, str, str], shared: Path, tmp_path: Path) -> None:
    code, out, _ = run("batches", *parent, "--format", "json", "--step", "41", "--quiet")
    following = [json.loads(line) for line in out.splitlines()]
    earlier = parent[0].replace("step40", "step80")
    code, out, _ = run("batches", earlier, *parent[1:], "--format", "json", "--step", "41", "--quiet")
    assert code == 0 and [json.loads(line) for line in out.splitlines()] == following
    text = tmp_path / "a.txt"
    text.write_text("def f(self):\n    return self.value\n" * 200)
    tokenizer = str(shared / "data" / "native" / "tokens" / "tok.json")
    words = (
        "--data",
        str(text),
        "--tokenizer",
        tokenizer,
        "--order",
        "sequential",
        "--batch",
        "1x64",
        "--format",
        "json",
    )
    code, out, _ = run("batches", parent[0], *words)
    [row] = [json.loads(line) for line in out.splitlines()]
    assert row["text"].startswith("def f(self):\n    return self.value\n") and row["counts"]
    code, out, _ = run("batches", parent[0], *words, "--mask-repeated-ngrams")
    assert json.loads(out)["counts"]  # a period of more than 13 tokens
    text.write_text("a " * 400)
    code, out, _ = run("batches", parent[0], *words, "--mask-repeated-ngrams")
    assert not json.loads(out)["counts"]
