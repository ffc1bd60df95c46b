"""`olmo-dyn runs`, `audit`, `revisions --lists` and `collect --quarantine`."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from olmo_dynamics.checkpoints import known_runs
from tests.conftest import REVISIONS


@pytest.fixture
def twins(tiny_run: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "twins"
    for name in REVISIONS:
        shutil.copytree(tiny_run / (REVISIONS[1] if name == REVISIONS[2] else name), folder / name)
    return folder


def test_runs_in_three_formats(run) -> None:
    code, out, err = run("runs")
    assert code == 0 and err == "" and all(known.title in out and known.repos[0] in out for known in known_runs())
    rows = [json.loads(line) for line in run("runs", "--format", "json")[1].splitlines()]
    [row] = [row for row in rows if row["title"] == "OLMo 2 13B"]
    assert row["tokens_per_step"] == {"1": 8388608, "2": 8388608}
    assert row["lists"] == ["OLMo-2-1124-13B.csv", "OLMo-2-1124-13B-stage2.csv"]
    table = list(csv.DictReader(io.StringIO(run("runs", "--format", "csv")[1])))
    assert [row["title"] for row in table] == [known.title for known in known_runs()]


@pytest.mark.parametrize("name", ["allenai/OLMo-2-1124-7B", "olmo 2 7b", "olmo-2-1124-7b", "2-1124-7B"])
def test_one_run_in_full(run, name: str) -> None:
    code, out, _ = run("runs", name)
    assert code == 0
    for words in ("OLMo 2 7B", "4194304 tokens per step (1024 x 4096)", "from step 928646", "seed 42069", "peteish7",
                  "allenai/OLMo issue 915", "ceil in allenai/OLMo-2-1124-7B", "average of the 3 ends of stage 2"):  # fmt: skip
        assert words in out
    facts = json.loads(run("runs", name, "--format", "json")[1])
    assert facts["stages"][1]["start"] == 928646 and len(facts["ingredients"]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("runs", "gpt"), "no known run is called 'gpt'; there are OLMo 1B, "),
        (("runs", "olmo-2"), "'olmo-2' may be any of OLMo 2 7B, OLMo 2 13B, "),
        (("audit", "no/such/folder"), "a source must be a folder of checkpoints or a hub repo"),
        (("audit", "{run}", "--lists-only"), "--lists-only needs lists"),
        (("audit", "{run}", "--lists", "{none}"), "cannot read the list"),
        (("audit", "{run}", "--headers", "stage7"), "'stage7' matches no revision"),
        (("revisions", "{run}", "--lists", "{run}"), "no list in "),
        (("collect", "{run}", "--out", "{none}", "--lists", "{none}"), "cannot read the list"),
        (("audit", "https://a.example/step1"), "is one checkpoint on a web server; audit a hub repo or a folder"),
        (("collect", "{run}", "--out", "{none}", "--quarantine", "{none}"), "the quarantine "),
    ],
)
def test_one_line_and_exit_code_2(run, tiny_run: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = run(*(each.format(run=tiny_run, none=tmp_path / "none") for each in arguments), "--quiet")
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert err.startswith("olmo-dyn: ") and words in err


def test_audit_as_a_table_and_as_json(run, twins: Path, tmp_path: Path) -> None:
    file = tmp_path / "leave-out.json"
    code, out, err = run("audit", str(twins), "--headers", "all", "--quarantine", str(file))
    assert code == 0 and "wrong     duplicate: 2 names, the same bytes (sha256 " in out
    assert f"    {REVISIONS[1]}, {REVISIONS[2]}" in out and out.splitlines()[-1].startswith(f"{twins}: 1 wrong, ")
    assert f"2 of 4 revisions in quarantine: {file}" in err
    code, out, err = run("audit", str(twins), "--format", "json", "--quiet")
    assert err == ""
    [finding] = [each for line in out.splitlines() if (each := json.loads(line))["severity"] == "wrong"]
    assert finding["kind"] == "duplicate" and finding["quarantine"] == finding["revisions"] == list(REVISIONS[1:3])


def test_audit_of_a_store(run, tiny_run: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    run("collect", str(tiny_run), "--out", str(store), "--record", "parameters", "--tensors", "norm", "-q")
    code, out, err = run("audit", str(store), "--format", "json", "--quiet")
    assert (code, err) == (0, "") and [json.loads(line)["kind"] for line in out.splitlines()] == ["test", "test"]
    code, out, err = run("audit", str(store), "--quarantine", str(tmp_path / "q.json"))
    assert code == 0 and out.splitlines() == [
        "note      test: no step was compared with its neighbours, since no line of training has 12 revisions",
        "note      test: statistics of 0 tensors of at least 100,000 elements compared bit by bit at 4 revisions",
        f"{store}: 0 wrong, 0 doubtful, 2 note (4 revisions)",
    ]
    assert err == f"0 of 4 revisions in quarantine: {tmp_path / 'q.json'}\n"
    code, out, err = run("audit", str(store), "--headers", "all")
    assert (code, out) == (2, "") and err.startswith(
        "olmo-dyn: --lists and --headers need a repo or a folder of revisions"
    )


def test_collect_names_what_is_in_quarantine(run, twins: Path, tmp_path: Path) -> None:
    run("audit", str(twins), "-q", "--quarantine", str(tmp_path / "q.json"))
    given = (
        "collect",
        str(twins),
        "--out",
        str(tmp_path / "s.zarr"),
        "--record",
        "parameters",
        "--tensors",
        "norm",
        "-q",
    )
    planned = json.loads(run(*given, "--dry-run", "--format", "json")[1])
    assert planned["quarantined"] == list(REVISIONS[1:3]) and planned["revisions"] == [REVISIONS[0], REVISIONS[3]]
    code, out, _ = run(*given, "--quarantine", str(tmp_path / "q.json"))
    assert code == 0 and f"excluded, as {tmp_path / 'q.json'} says: {REVISIONS[1]}, {REVISIONS[2]}" in out
    facts = json.loads(run(*given, "--include-quarantined", "--format", "json")[1])
    assert facts.pop("outcome")["revisions"] == 2
    assert facts == {"store": str(tmp_path / "s.zarr"), "revisions": 4, "missing": 0, "quarantined": []}


def test_revisions_joined_with_a_list(run, tiny_run: Path, tmp_path: Path) -> None:
    rows = "".join(f"{step},https://a.example/run/step{step}-unsharded/\n" for step in (10, 50))
    (tmp_path / "list.csv").write_text("Step,Checkpoint Directory\n" + rows)
    given = ("revisions", str(tiny_run), "--lists", str(tmp_path / "list.csv"), "-q", "--format")
    found = [json.loads(line) for line in run(*given, "json", "--select", "stage1")[1].splitlines()]
    assert [(row["revision"], row["hub"], row["native"], row["native_url"][-17:]) for row in found] == [
        (REVISIONS[0], True, False, ""),
        (REVISIONS[1], True, True, "/step10-unsharded/"[-17:]),
        ("stage1-step50", False, True, "/step50-unsharded/"[-17:]),
        (REVISIONS[2], True, False, ""),
    ]
    assert "native_url" in run(*given, "csv")[1].splitlines()[0]


def test_audit_of_the_real_lists_prints_their_faults(run, shared: Path) -> None:
    lists = str(shared / "data" / "manifests")
    code, out, _ = run("audit", "allenai/OLMo-7B-0724-hf", "--lists", lists, "--lists-only")
    assert code == 0 and "564 of 564 rows point to OLMo 7B" in out
    _, out, _ = run("audit", "allenai/OLMo-2-1124-13B", "--lists", lists, "--lists-only")
    assert "step239000, step477000" in out and "ingredient3/step11000-unsharded/" in out
