"""The three audit cases that others found in published runs, and their clean twins, on the local hub.

The branches, files and pattern of equal files are those of `audit_cases/pythia_205_206.json`; the weights are a few bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from olmo_dynamics.auditing import Severity
from tests.auditing.conftest import AuditHub, Run, lines
from tests.hub import LocalHub

CONFIG = {"config.json": b'{"model_type": "gpt_neox"}'}
SHARDS = tuple(f"pytorch_model-{number:05}-of-00003.bin" for number in (1, 2, 3))


@pytest.fixture(scope="session")
def facts(shared: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shared / "data" / "audit_cases" / "pythia_205_206.json").read_text())
    return found


def steps_of_main(case: dict[str, Any]) -> list[int]:
    """The steps whose file is that of `main`: single ones, and a range with its spacing."""
    early, (first, last), late = ([int(word) for word in text.replace(" every 1000", "").replace("..", ",").split(",")]
                                  for text in case["identical_to_main"]["steps"])  # fmt: skip
    return [*early, *range(first, last + 1, 1000), *late]


def whole_file_run(main: list[int], second: list[int]) -> Run:
    steps = [0, *(2**power for power in range(10)), *range(1000, 144_000, 1000)]
    of_step = dict.fromkeys(main, b"final") | dict.fromkeys(second, b"second blob")
    weights = {f"step{step}": of_step.get(step, b"step %d" % step) for step in steps} | {"main": b"final"}
    return {name: {**CONFIG, "model.safetensors": content} for name, content in weights.items()}


def shard_run(sharing: list[str]) -> Run:
    """Every 1000 steps; `main` is the last step, whose first shard lies under the names in `sharing` as well."""
    names = [f"step{step}" for step in range(1000, 144_000, 1000)]
    run = {name: {**CONFIG, **{file: f"{name} {file}".encode() for file in SHARDS}} for name in names}
    run["main"] = dict(run["step143000"])
    for name in sharing:
        run[name][SHARDS[0]] = run["main"][SHARDS[0]]
    return run


def test_final_weights_under_the_names_of_86_branches_of_154(
    facts: dict[str, Any], hub: LocalHub, audit_hub: AuditHub
) -> None:
    case = facts["pythia-2.8b"]
    main, second = steps_of_main(case), case["second_blob"]["steps"]
    run = whole_file_run(main, second)
    assert (len(run) - 1, len(main), len(second)) == (case["branches"], case["identical_to_main"]["count"], 10)
    hub.add_repo("EleutherAI/case", run)
    hub.add_repo("EleutherAI/twin", whole_file_run([], []))
    found = audit_hub("EleutherAI/case").quarantine.revisions
    assert set(found) == {f"step{step}" for step in (*main, *second)} and len(found) == 86
    assert all(entry.is_whole for entry in found.values())
    assert not [request for request in hub.requests if request.path.endswith("model.safetensors")]
    clean = audit_hub("EleutherAI/twin")
    assert [(finding.kind, finding.severity) for finding in clean.findings] == [
        ("cadence", Severity.NOTE)
    ]  # steps 1 to 512
    assert not clean.quarantine.revisions


def test_one_shard_of_three_is_that_of_the_final_model(
    facts: dict[str, Any], hub: LocalHub, audit_hub: AuditHub
) -> None:
    case = facts["pythia-12b"]
    assert case["file"] == SHARDS[0]
    wrong = [name for name in case["refs"] if name not in ("main", "step143000")]
    hub.add_repo("EleutherAI/case", shard_run(wrong))
    hub.add_repo("EleutherAI/twin", shard_run([]))
    found = audit_hub("EleutherAI/case")
    assert {name: entry.files for name, entry in found.quarantine.revisions.items()} == {
        "step50000": (SHARDS[0],),
        "step58000": (SHARDS[0],),
    }
    wrong_file = f"duplicate: the same bytes in {SHARDS[0]}, though not in all files"
    assert [(severity, line.split(" (")[0], set(names)) for severity, line, names in lines(found)] == [
        ("doubtful", wrong_file, set(case["refs"])),
        ("note", "duplicate: 2 names, the same bytes", {"main", "step143000"}),
    ]
    clean = audit_hub("EleutherAI/twin")
    assert [finding.severity for finding in clean.findings] == [Severity.NOTE] and not clean.quarantine.revisions


def test_three_branches_are_the_same_in_all_their_shards(
    facts: dict[str, Any], hub: LocalHub, audit_hub: AuditHub
) -> None:
    case = facts["OLMo-2-1124-7B"]
    names = [name for name, _ in case["identical"]]
    files = [f"model-{number:05}-of-{case['shards']:05}.safetensors" for number in range(1, case["shards"] + 1)]
    others = ["stage1-step100000-tokens420B", "stage1-step200000-tokens839B", "stage1-step400000-tokens1678B"]
    run: Run = {name: {**CONFIG, **{file: f"{name} {file}".encode() for file in files}} for name in (*names, *others)}
    hub.add_repo("org/twin", run)
    hub.add_repo("org/case", run | dict.fromkeys(names, run[names[0]]))
    found = audit_hub("org/case").quarantine.revisions
    assert set(found) == set(names) and all(entry.is_whole for entry in found.values())
    assert lines(audit_hub("org/twin")) == []


def test_a_shard_that_is_never_trained_is_a_note(hub: LocalHub, audit_hub: AuditHub) -> None:
    run = {f"step{step}": {**CONFIG, **dict.fromkeys(SHARDS, b"%d" % step)} for step in range(1, 5)}
    for files in run.values():
        files[SHARDS[2]] = b"frozen"
    hub.add_repo("org/frozen", run)
    found = audit_hub("org/frozen")
    assert lines(found) == [
        ("note", f"duplicate: the same bytes in {SHARDS[2]} at every revision: not trained", tuple(run))
    ]
    assert not found.quarantine.revisions


def test_a_revision_all_of_whose_shards_are_those_of_others_is_excluded_whole(
    hub: LocalHub, audit_hub: AuditHub
) -> None:
    first, second = (f"model-{number:05}-of-00002.safetensors" for number in (1, 2))
    run = {f"step{step}": {**CONFIG, first: b"a%d" % step, second: b"b%d" % step} for step in range(1, 5)}
    run["step2"] |= {first: run["step1"][first], second: run["step3"][second]}
    hub.add_repo("org/mixed", run)
    found = audit_hub("org/mixed").quarantine.revisions
    assert {name: entry.files for name, entry in found.items()} == {
        "step1": (first,), "step2": (), "step3": (second,),
    }  # fmt: skip
