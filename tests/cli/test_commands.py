"""The command line: results on stdout, one clear line and exit code 2 for what the user can mend."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import polars as pl
import pytest

from olmo_dynamics.cli import cli
from olmo_dynamics.frames import open_store
from tests.conftest import REVISIONS


@pytest.fixture(scope="module")
def store(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    out = tmp_path_factory.mktemp("cli") / "store.zarr"
    collect(tiny_run, out=out, batch="6x16", progress=Progress())
    return out


def test_revisions_in_three_formats(run, tiny_run: Path) -> None:
    listed = run("revisions", str(tiny_run), "--format", "csv", "--quiet")
    assert [row["revision"] for row in csv.DictReader(io.StringIO(listed.out))] == list(REVISIONS)
    assert listed.err == ""
    lines = run("revisions", str(tiny_run), "--format", "json", "--select", "stage1:last1").out.splitlines()
    assert [json.loads(line)["step"] for line in lines] == [100]
    table = run("revisions", str(tiny_run))
    assert all(name in table.out for name in REVISIONS) and "4 revisions" in table.err


def test_collect_show_export_report(run, tiny_run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "s.zarr")
    assert run("collect", str(tiny_run), "--out", out, "--batch", "6x16", "--revisions", "stage1", "-q").code == 0
    shown = json.loads(run("show", out, "--format", "json").out)
    assert shown["done"] == sorted(REVISIONS[:3]) and shown["missing"] == []
    assert shown["probe"]["shape"] == [6, 16]
    assert [(each["kind"], each["where"]) for each in shown["findings"]] == [
        ("outlier", "feature 7, blocks 0 to 1")
    ]  # planted
    assert (
        shown["findings_note"] == "Jumps need at least 11 revisions on one line; the longest line here has 3 revisions."
    )
    text = run("show", out)
    assert text.code == 0 and "3 revisions" in text.out and "encyclopedia" in text.out
    assert "Jumps need at least 11 revisions" in text.out
    file = tmp_path / "parameters.parquet"
    assert run("export", out, "parameters", "--out", str(file)).code == 0
    assert pl.read_parquet(file)["step"].unique().sort().to_list() == [0, 10, 100]
    page = tmp_path / "report.html"
    assert run("report", out, "--out", str(page)).code == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_dry_run_moves_nothing(run, tiny_run: Path, tmp_path: Path) -> None:
    outcome = run("collect", str(tiny_run), "--out", str(tmp_path / "s.zarr"), "--dry-run", "--format", "json")
    facts = json.loads(outcome.out)
    assert (
        facts["revisions"] == list(REVISIONS)
        and facts["bytes"] > 0
        and facts["download_seconds"] == facts["bytes"] / 1e8
    )
    assert facts["rate_from"] == "assumed"
    assert not (tmp_path / "s.zarr").exists()


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("place", "problem", "code", "said"),
    [
        ("olmo_dynamics.store.series.compress", FULL, 2, "no room left on the disk of"),
        ("olmo_dynamics.store.series.compress", KeyboardInterrupt(), 130, "interrupted; finished work is kept"),
        ("olmo_dynamics.collection.compact", KeyboardInterrupt(), 130, "interrupted; finished work is kept"),
    ],
    ids=["a full disk", "Ctrl-C during it", "Ctrl-C before it"],
)  # fmt: skip
def test_what_stops_the_compaction_at_the_end_of_a_collection_costs_no_data(
    place: str, problem: BaseException, code: int, said: str, run, tiny_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "s.zarr"
    command = ("collect", str(tiny_run), "--out", str(out), "--record", "parameters", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(place, Mock(side_effect=problem))
        stopped = run(*command)
    assert (stopped.code, stopped.out, len(stopped.err.strip().splitlines())) == (code, "", 1) and said in stopped.err
    kept = open_store(out)
    values = kept.table("parameters")
    assert kept.done == set(REVISIONS) and not kept.is_compact and values.height > 0
    assert run(*command).code == 0
    assert open_store(out).is_compact and open_store(out).table("parameters").equals(values)
    assert [each.name for each in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("revisions", "no/such/folder"), ["no/such/folder"]),
        (("show", "nowhere.zarr"), ["nowhere.zarr"]),
        (("report", "nowhere.zarr"), ["nowhere.zarr"]),
        (("export", "{store}", "gradients", "--out", "x.csv"), ["gradients", "parameters"]),
        (("export", "{store}", "parameters", "--out", "x.xlsx"), [".parquet", ".csv"]),
        (("revisions", "{run}", "--select", "stage1-step11-tokens1B"), ["stage1-step11-tokens1B", "stage1-step10-tokens1B"]),
        (("revisions", "{run}", "--select", "stage7"), ["stage7", "stage1"]),
        (("collect", "{run}", "--out", "{file}"), ["{file}"]),
        (("collect", "{run}", "--out", "x.zarr", "--text", "{empty}"), ["{empty}"]),
        (("collect", "{run}", "--out", "x.zarr", "--rate", "0", "--dry-run"), ["rate"]),
        (("collect", "{run}", "--out", "x.zarr", "--rate", "quick", "--dry-run"), ["rate", "quick", "measured"]),
        (("lab", "--out", "{file}", "--no-open"), ["{file}"]),
    ],
)  # fmt: skip
def test_one_line_and_exit_code_2(
    run, tiny_run: Path, store: Path, tmp_path: Path, monkeypatch, arguments, words
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a store")
    (tmp_path / "empty.txt").write_text("")
    named = {"store": store, "run": tiny_run, "file": tmp_path / "file", "empty": tmp_path / "empty.txt"}
    outcome = run(*(each.format(**named) for each in arguments))
    assert outcome.code == 2 and outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("olmo-dyn: ")
    assert all(word.format(**named) in lines[0] for word in words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "file"]


def test_ctrl_c_is_130(run, monkeypatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("olmo_dynamics.frames.open_store", interrupted)
    outcome = run("show", "x.zarr")
    assert outcome.code == 130
    assert outcome.err.strip() == "olmo-dyn: interrupted; finished work is kept; run the same command again to continue"


def test_our_own_bug_is_a_traceback(run, monkeypatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("olmo_dynamics.frames.open_store", broken)
    with pytest.raises(ZeroDivisionError):
        run("show", "x.zarr")


def test_every_command_has_an_example_in_its_help(run) -> None:
    for name in cli.commands:
        shown = run(name, "--help")
        assert shown.code == 0 and f"olmo-dyn {name}" in shown.out and "Example" in shown.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['olmo-dyn', 'collect', '--help']\n"
        "from olmo_dynamics.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'zarr', 'altair', 'polars', 'numba', 'huggingface_hub', 'rich.progress'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_lab_puts_the_notebooks_and_leaves_changed_ones(run, tmp_path: Path) -> None:
    first = run("lab", "--out", str(tmp_path / "lab"), "--no-open", "-q")
    names = sorted(Path(line).name for line in first.out.splitlines())
    assert names[:2] == ["00_the_story.ipynb", "01_collect_from_the_hub.ipynb"]
    (tmp_path / "lab" / names[0]).write_text("mine")
    assert run("lab", "--out", str(tmp_path / "lab"), "--no-open", "-q").out == ""
    assert (tmp_path / "lab" / names[0]).read_text() == "mine"


def test_help_names_every_command_by_its_purpose(run) -> None:
    shown = run("--help").out
    assert "..." not in shown.split("Options:")[1]  # no sentence is cut
    assert "\nCommands:\n" not in shown  # every command has a section
    assert {name for names in cli.sections.values() for name in names} == set(cli.commands)


def test_help_of_fork_names_every_option_by_its_purpose() -> None:
    fork = cli.commands["fork"]
    placed = [name for names in fork.sections.values() for name in names]
    options = {each.name for each in fork.params if each.param_type_name == "option"}
    assert options - set(placed) == {"config", "dry_run", "style", "quiet"}
    assert len(placed) == len(set(placed))
