"""Every kind of fault is found where it is, and nowhere else; no weights are moved."""

from __future__ import annotations

import json

import pytest

from olmo_dynamics.auditing import Severity, find_quarantine
from olmo_dynamics.checkpoints import MemorySource
from olmo_dynamics.errors import UnknownSourceError
from tests.auditing.conftest import (
    CONFIG,
    REPO,
    AuditHub,
    Run,
    audit_memory,
    clean_run,
    files,
    lines,
    name_of,
    only,
)
from tests.hub import LocalHub

KNOWN = "allenai/OLMo-2-0425-1B"


class TestOnAHub:
    def test_a_clean_run_has_no_findings(self, hub: LocalHub, audit_hub: AuditHub) -> None:
        hub.add_repo(REPO, clean_run())
        hub.add_repo(KNOWN, clean_run())
        for name in (REPO, KNOWN):
            assert lines(audit_hub(name)) == []
            assert lines(audit_hub(name, headers="all")) == []

    def test_every_kind_of_fault_is_found_at_once_without_weights(self, hub: LocalHub, audit_hub: AuditHub) -> None:
        hub.add_repo(REPO, seeded_run())
        found = audit_hub(headers="all")
        kinds = {(finding.kind, str(finding.severity)) for finding in found.findings}
        assert kinds == {
            ("duplicate", "wrong"), ("incomplete", "wrong"), ("dtype", "doubtful"), ("shape", "doubtful"), ("shards", "note"),
            ("config", "doubtful"), ("config", "note"), ("cadence", "doubtful"), ("cadence", "note"), ("label", "doubtful"),
            ("name", "doubtful"), ("name", "note"),
        }  # fmt: skip
        assert sum(request.bytes_sent for request in hub.requests if request.host == "cdn") < 64 << 10 << 6
        assert set(found.quarantine.revisions) == {name_of(3000), name_of(4000), name_of(6000)}

    def test_costs_one_request_a_revision_and_then_one(self, hub: LocalHub, audit_hub: AuditHub) -> None:
        run = clean_run()
        hub.add_repo(REPO, run)
        audit_hub()
        trees = [request for request in hub.requests if "/tree/" in request.path]
        others = [request.path for request in hub.requests if "/tree/" not in request.path]
        assert len(trees) == len(run)
        assert [path.rpartition("/")[2] for path in others if "resolve" not in path] == ["refs"]
        assert all(path.endswith("config.json") for path in others if "resolve" in path)
        assert not [request for request in hub.requests if request.host == "cdn"]
        hub.requests.clear()
        audit_hub()
        assert [request.path.rpartition("/")[2] for request in hub.requests] == ["refs"]

    def test_a_branch_that_moved_since_the_last_audit(self, hub: LocalHub, audit_hub: AuditHub) -> None:
        hub.add_repo(REPO, clean_run())
        before = hub.repositories[REPO].branches[name_of(5000)].id
        assert lines(audit_hub()) == []
        after = hub.set_branch(REPO, name_of(5000), files(7)).id
        hub.repositories[REPO].branches.pop("main")
        assert [each.line for each in audit_hub().findings] == [
            f"moved: {after[:12]} (expected {before[:12]}, as at the last audit)",
            "moved: no longer there (expected the branches of the last audit)",
        ]
        assert lines(audit_hub()) == []

    def test_an_audit_cut_short_keeps_what_it_listed(self, hub: LocalHub, audit_hub: AuditHub) -> None:
        from tests.hub import Fault

        hub.add_repo(REPO, clean_run())
        fault = hub.add_fault(Fault("503", f"/tree/{hub.repositories[REPO].branches[name_of(4000)].id}", times=None))
        with pytest.raises(Exception, match="failed 2 times"):
            audit_hub()
        hub.faults.remove(fault)
        hub.requests.clear()
        assert lines(audit_hub()) == []
        assert sum("/tree/" in request.path for request in hub.requests) == len(clean_run()) - 4

    def test_no_such_repo(self, audit_hub: AuditHub) -> None:
        with pytest.raises(UnknownSourceError, match=r"^tiny-org/none does not exist on "):
            audit_hub("tiny-org/none")


def seeded_run() -> Run:
    """The clean run, with every fault that one listing can show."""
    run = clean_run()
    run[name_of(4000)] = run[name_of(3000)]
    run[name_of(6000)] = {name: data for name, data in files(6000).items() if "00002" not in name.split("-of-")[0]}
    run[name_of(7000)] = files(7000, dtype="BF16")
    run[name_of(8000)] = files(8000, width=32)
    run[name_of(9000)] = files(9000, {"rope_theta": 10000})
    run[name_of(2000)] = files(2000, {"transformers_version": "5.0.0"})
    del run[name_of(5000)]
    run |= {name_of(step): files(step) for step in (10_000, 10_500, 11_000, 12_000, 13_000, 14_000, 15_000, 16_000)}
    run["stage1-step17000-tokens80B"] = files(17_000)
    run["step18000-tokens38B"] = files(18_000)
    from tests.checkpoints.conftest import noise, pack

    whole = {"model.embed_tokens.weight": noise(1, 128, 64), "model.norm.weight": noise(2, 64),
             "lm_head.weight": noise(3, 128, 64)}  # fmt: skip
    run["nitro"] = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": pack(whole)}
    return run


class TestDuplicates:
    def test_name_the_group_and_go_into_quarantine(self) -> None:
        run = clean_run()
        run[name_of(7000)] = run[name_of(8000)] = run[name_of(2000)]
        found = audit_memory(run)
        finding = only(found)
        assert (finding.kind, finding.severity) == ("duplicate", Severity.WRONG)
        assert finding.revisions == finding.quarantine == (name_of(2000), name_of(7000), name_of(8000))
        kept = find_quarantine(MemorySource(run, REPO))
        assert set(kept.revisions) == set(finding.revisions)

    def test_main_is_no_fault_when_it_is_the_last_step(self) -> None:
        run = clean_run()
        run["main"] = run[name_of(6000, "stage2-ingredient1-")]
        finding = only(audit_memory(run))
        assert (finding.severity, finding.quarantine) == (Severity.NOTE, ())

    def test_of_main_are_wrong_but_not_main_itself_nor_its_known_other_name(self) -> None:
        run = clean_run()
        run["stage2-ingredient3-step23852-tokens51B"] = run[name_of(3000)] = run["main"]
        found = audit_memory(run, KNOWN)
        assert [each.quarantine for each in found.findings if each.kind == "duplicate"] == [(name_of(3000),)]

    def test_the_first_step_of_a_later_stage_is_the_end_of_the_one_before(self) -> None:
        run = clean_run()
        run["stage2-ingredient1-step0-tokens0B"] = run[name_of(9000)]
        assert only(audit_memory(run)).severity is Severity.NOTE

    def test_of_some_files_only_are_doubtful(self) -> None:
        run = clean_run()
        shard = "model-00001-of-00002.safetensors"
        run[name_of(3000)] = run[name_of(3000)] | {shard: run[name_of(2000)][shard]}
        finding = only(audit_memory(run))
        assert finding.severity is Severity.DOUBTFUL
        assert finding.line == (
            f"duplicate: the same bytes in {shard}, though not in all files (expected different weights at different steps)"
        )


@pytest.mark.parametrize(
    ("lost", "line"),
    [
        ("model-00002-of-00002.safetensors",
         "incomplete: model-00002-of-00002.safetensors is missing (expected 2 shards)"),
        ("config.json", "incomplete: no config (expected config.json)"),
        ("model-0000", "incomplete: no weights (expected weights)"),
    ],
)  # fmt: skip
def test_what_is_missing(lost: str, line: str) -> None:
    run = clean_run()
    run[name_of(1000)] = {name: data for name, data in run[name_of(1000)].items() if not name.startswith(lost)}
    finding = only(audit_memory(run))
    assert (finding.line, finding.quarantine) == (line, (name_of(1000),))


def test_headers_name_the_tensors() -> None:
    run = clean_run()
    run[name_of(1000)] = files(1000, width=65)
    run[name_of(2000)] = files(2000, {"torch_dtype": "bfloat16"})
    run[name_of(3000)]["model-00001-of-00002.safetensors"] = b"\xff" * 64
    found = {each.line for each in audit_memory(run, headers="stage1").findings}
    assert "shape: lm_head.weight [128, 65] not [128, 64], model.embed_tokens.weight [128, 65] not [128, 64], " \
        "model.norm.weight [65] not [64] (expected the tensors that most revisions have)" in found  # fmt: skip
    assert "dtype: F32 in the headers (expected BF16, as in the config)" in found
    assert any(line.startswith(f"incomplete: {REPO}@{name_of(3000)}: model-00001-of-00002.safetensors: a header must have")
               for line in found)  # fmt: skip


@pytest.mark.parametrize("names", [("main",), (), ("step0", "main"), ("nitro", "fp32")])
def test_a_run_with_next_to_nothing_in_it(names: tuple[str, ...]) -> None:
    found = audit_memory({name: files(place) for place, name in enumerate(names)}, headers="all" if names else "")
    assert lines(found) == []


def test_uploads_of_the_final_model_under_other_steps() -> None:
    names = [f"step{step}-tokens{step * 4192870 // 10**9}B" for step in range(200_000, 252_000, 1000)]
    run: Run = dict.fromkeys(names, files(1)) | {"main": files(1), "step252000-tokens1056B": files(2)}
    found = audit_memory(run, "allenai/OLMo-7B-0424-hf")
    assert set(found.quarantine.revisions) == set(names)
    [reported] = [each for each in found.findings if each.reference == "discussion 4 of allenai/OLMo-7B-0424-hf"]
    assert (reported.severity, reported.revisions) == (Severity.DOUBTFUL, tuple(names))


def test_a_copy_in_another_dtype() -> None:
    run = {
        f"step{step}-tokens{step * 2**22 // 10**9}B": files(step, dtype="BF16") for step in range(5000, 55_000, 5000)
    }
    found = audit_memory(run | {"fp32": files(1), "main": files(2, dtype="BF16")}, "allenai/OLMoE-1B-7B-0924")
    [drift] = [each for each in found.findings if each.kind == "dtype"]
    assert drift.revisions == ("fp32",) and drift.found.endswith("times as many: another dtype")


class TestConfigs:
    def test_a_field_unlike_the_rest_of_its_stage(self) -> None:
        run = clean_run()
        run[name_of(4000)] = files(4000, {"rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 8.0}})
        found = {(str(each.severity), each.line) for each in audit_memory(run).findings}
        assert found == {
            ("doubtful", "config: rope_theta = 10000 (expected rope_theta = 500000, as in most of the stage)"),
            ("doubtful", "config: rope_scaling.factor = 8.0 (expected rope_scaling.factor = absent, as in most of the stage)"),
            ("doubtful", 'config: rope_scaling.type = "yarn" (expected rope_scaling.type = absent, as in most of the stage)'),
        }  # fmt: skip

    def test_what_differs_between_stages_is_one_note(self) -> None:
        run = clean_run()
        for step in range(1000, 7000, 1000):
            run[name_of(step, "stage2-ingredient1-")] = files(50_000 + step, {"max_position_embeddings": 65536})
        finding = only(audit_memory(run))
        assert (str(finding.severity), finding.line) == ("note", "config: stages differ in max_position_embeddings")


class TestNames:
    def test_a_label_that_breaks_the_known_rule(self) -> None:
        run = clean_run()
        run["stage1-step10000-tokens48B"] = files(10_000)
        run["stage1-step11000-tokens24B"] = files(11_000)
        run["stage2-ingredient1-step7000-tokens16B"] = files(12_000)
        found = audit_memory(run, KNOWN)
        assert [(str(each.severity), each.line) for each in found.findings] == [
            ("doubtful", "label: 48B (expected 21B, by the repo's rule (ceil))"),
            ("note", "label: 16B (expected 15B, by the repo's rule (ceil))"),
        ]

    def test_a_label_unlike_the_others_of_an_unknown_run(self) -> None:
        run = {f"step{step}-tokens{step * 1000}": files(step) for step in range(100, 1000, 100)}
        assert lines(audit_memory(run)) == []
        run["step1000-tokens2000000"] = files(1000)
        assert only(audit_memory(run)).line == (
            "label: 2000000 (expected about 1000000 of the label's unit, by the other labels)"
        )

    def test_two_names_of_one_step(self) -> None:
        run = clean_run() | {"stage1-step3000-tokens6B": files(1)}
        assert ("doubtful", "name: several names of one step (expected one name per step)",
                ("stage1-step3000-tokens6B", name_of(3000))) in lines(audit_memory(run, KNOWN))  # fmt: skip

    def test_seeds_are_lines_of_their_own(self) -> None:
        run = {f"step{step}-seed-{seed}": files(step + place) for place, seed in enumerate(("default", "small-aux-2"))
               for step in range(0, 7000, 1000) if (seed, step) != ("default", 4000)}  # fmt: skip
        run["step0-seed-small-aux-2"] = run["step0-seed-default"]  # a seed of the data order alone
        run["step5000-seed-default-unsharded"] = files(99)
        run["step5000-seed-small-aux-2"] = run["step6000-seed-small-aux-2"]
        found = audit_memory(run)
        assert sorted((str(each.severity), each.kind, each.revisions) for each in found.findings) == [
            ("doubtful", "name", ("step5000-seed-default", "step5000-seed-default-unsharded")),
            ("note", "duplicate", ("step0-seed-default", "step0-seed-small-aux-2")),
            ("note", "name", ("step0-seed-default", "step0-seed-small-aux-2")),
            ("wrong", "duplicate", ("step5000-seed-small-aux-2", "step6000-seed-small-aux-2")),
        ]
        assert "name: 2 seeds (default, small-aux-2), each a line of training of its own" in {
            each.line for each in found.findings
        }


def test_known_faults_are_shown_and_said_to_be_mended() -> None:
    names = ["stage1-step101000-tokens424B", "stage1-step175000-tokens735B", "stage1-step300000-tokens1259B"]
    same = audit_memory({name: files(1) for name in names}, "allenai/OLMo-2-1124-7B")
    assert set(same.quarantine.revisions) == set(names)
    different = audit_memory({name: files(place) for place, name in enumerate(names)}, "allenai/OLMo-2-1124-7B")
    assert different.quarantine.revisions == {}
    [finding] = [each for each in different.findings if each.reference == "allenai/OLMo issue 915"]
    assert finding.found.endswith("; this audit no longer sees it")


def test_a_folder_that_changed_is_seen_without_commits() -> None:
    run = clean_run()
    assert lines(audit_memory(run)) == []
    run[name_of(3000)] = files(1)
    assert only(audit_memory(run)).kind == "moved"
