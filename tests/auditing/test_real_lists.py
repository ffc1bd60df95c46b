"""The official lists as published, and the published names: every known fault is found, and clean runs stay clean."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from olmo_dynamics.auditing.auditor import inspect
from olmo_dynamics.auditing.evidence import Evidence
from olmo_dynamics.auditing.findings import Finding, Severity
from olmo_dynamics.checkpoints import known_run, parse_revision
from olmo_dynamics.checkpoints.catalog.official_lists import OfficialList, find_lists, parse_list


@pytest.fixture
def lists(shared: Path) -> Path:
    return shared / "data" / "manifests"


def listed_names(shared: Path, repo: str) -> tuple[str, ...]:
    """The names that a repo has on the hub, by the revision lists."""
    path = shared / "reference" / "revisions" / f"revisions_{repo}.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["hf_status"] not in ("absent", "reported-missing")]
    return tuple(dict.fromkeys(row["hf_revision"] for row in rows if row["hf_revision"]))


def earlier_list(shared: Path, repo: str, name: str) -> OfficialList:
    """A list that is no longer published, from the native addresses in the revision list."""
    with (shared / "reference" / "revisions" / f"revisions_{repo}.csv").open(newline="") as file:
        rows = [f"{row['step']},{row['native_url']}" for row in csv.DictReader(file) if row["native_url"]]
    return parse_list("\n".join(["Step,Checkpoint Directory", *rows]), name)


def findings(repo: str, names: tuple[str, ...] = (), read: tuple[OfficialList, ...] = ()) -> list[Finding]:
    """Findings from names and lists, without the faults that are only known from `known_runs.toml`."""
    source = f"allenai/{repo}"
    revisions = tuple(map(parse_revision, names))
    found = inspect(Evidence(source, revisions, known_run(source), lists=read))
    return [each for each in found if each.kind != "known"]


def of_lists(lists: Path, repo: str) -> list[Finding]:
    return findings(repo, read=tuple(find_lists([lists], repo, known_run(f"allenai/{repo}"))))


def one(found: list[Finding], words: str) -> Finding:
    [finding] = [each for each in found if words in each.line]
    return finding


class TestLists:
    def test_the_list_of_0724_is_that_of_the_original_7b(self, lists: Path) -> None:
        found = one(
            of_lists(lists, "OLMo-7B-0724-hf"),
            "564 of 564 rows point to OLMo 7B (expected directories of OLMo 7B 0724)",
        )
        assert found.severity is Severity.WRONG

    def test_7b_lists_step_557000_in_two_directories(self, lists: Path) -> None:
        found = one(of_lists(lists, "OLMo-7B"), "p067ktg9/step557000-unsharded/ and ")
        assert found.revisions == ("step557000",) and "z4z0x4m9/step557000-unsharded/" in found.found

    def test_13b_has_40_repeated_rows(self, lists: Path) -> None:
        found = one(of_lists(lists, "OLMo-2-1124-13B"), "the same step and directory twice")
        assert found.revisions == tuple(f"step{step}" for step in (239000, *range(477000, 516000, 1000)))

    def test_13b_leaves_its_cadence_for_half_thousands(self, lists: Path) -> None:
        found = one(of_lists(lists, "OLMo-2-1124-13B"), "18 steps off the cadence")
        assert "then every 500 steps to 134000, then every 1000 steps" in found.expected

    def test_13b_ingredient_3_ends_in_the_directory_of_step_11000(self, lists: Path) -> None:
        found = one(of_lists(lists, "OLMo-2-1124-13B"), "ingredient3/step11000-unsharded/")
        assert (found.severity, found.revisions) == (Severity.WRONG, ("stage2-ingredient3-step11931",))

    def test_32b_repeats_step_200000(self, lists: Path) -> None:
        assert one(of_lists(lists, "OLMo-2-0325-32B"), "the same step and directory twice").revisions == ("step200000",)

    def test_32b_soup_is_of_another_format(self, lists: Path) -> None:
        found = one(of_lists(lists, "OLMo-2-0325-32B"), "directories in olmo format (expected olmo-core directories")
        assert found.revisions == ("stage2-ingredientsoup-step11921",)

    def test_olmo_2_7b_lacks_the_end_of_stage_1_and_has_steps_off_the_cadence(self, lists: Path) -> None:
        found = of_lists(lists, "OLMo-2-1124-7B")
        assert one(found, "no such row; the last is step 928000 (expected step 928646 of stage 1")
        assert one(found, "off the cadence").revisions == tuple(f"step{n}" for n in (150, 600, 700, 850, 900, 2150))

    def test_olmo_3_7b_spells_one_stage_otherwise(self, lists: Path) -> None:
        assert one(of_lists(lists, "Olmo-3-1025-7B"), "labels spelt in another way").revisions == (
            "stage_3_longcontext",
        )

    def test_olmo_3_32b_goes_on_past_the_fork(self, lists: Path) -> None:
        found = one(of_lists(lists, "Olmo-3-1125-32B"), "23 rows past it (expected nothing past step 656000")
        assert (found.revisions[0], found.revisions[-1]) == ("stage1-step657000", "stage1-step679000")

    def test_olmo_3_32b_counts_midtraining_from_step_678500(self, lists: Path) -> None:
        assert one(
            of_lists(lists, "Olmo-3-1125-32B"), "from step 678500 of stage 1, though the stage started at 656000"
        )

    def test_olmo_3_columns_are_one_interval_late(self, lists: Path) -> None:
        assert one(of_lists(lists, "Olmo-3-1125-32B"), "the column of stage 3 is 1000 steps late")
        assert one(of_lists(lists, "Olmo-3-1025-7B"), "the column of stage 2 is 1000 steps late")
        assert one(of_lists(lists, "Olmo-3-1025-7B"), "the column of stage 3 is 1000 steps late")

    def test_hybrid_has_three_extra_steps_in_stage_1(self, lists: Path) -> None:
        found = one(of_lists(lists, "Olmo-Hybrid-7B"), "every 1000 steps to 1414000 in stage 1")
        assert found.revisions == ("stage1-step268700", "stage1-step818500", "stage1-step1413500")

    @pytest.mark.parametrize("repo", ["OLMo-2-0425-1B", "Olmo-Hybrid-7B", "OLMo-2-1124-7B"])
    def test_lists_without_faults_have_notes_alone(self, lists: Path, repo: str) -> None:
        assert {each.severity for each in of_lists(lists, repo)} == {Severity.NOTE}


class TestEarlierLists:
    def test_0424_row_489000_leads_to_the_annealing_run(self, shared: Path) -> None:
        read = earlier_list(shared, "OLMo-7B-0424-hf", "OLMo-7B-0424.csv")
        found = one(findings("OLMo-7B-0424-hf", read=(read,)), "olmo-annealing/yu3ctnnk/step12000-unsharded/")
        assert (found.severity, found.revisions) == (Severity.WRONG, ("step489000",))

    def test_0424_rows_of_two_restarts_interleave(self, shared: Path) -> None:
        read = earlier_list(shared, "OLMo-7B-0424-hf", "OLMo-7B-0424.csv")
        assert one(findings("OLMo-7B-0424-hf", read=(read,)), "rows of b33slso9 interleave with those of kw7yb1r5")

    def test_7b_ends_in_two_directories(self, shared: Path) -> None:
        read = earlier_list(shared, "OLMo-7B", "OLMo-7B.csv")
        assert one(findings("OLMo-7B", read=(read,)), "one directory per step").revisions == ("step557000",)

    def test_twin_has_a_gap_from_89500_to_237000(self, shared: Path) -> None:
        read = earlier_list(shared, "OLMo-7B-Twin-2T", "OLMo-7B-Twin-2T.csv")
        found = one(findings("OLMo-7B-Twin-2T", read=(read,)), "cadence: OLMo-7B-Twin-2T.csv: no step")
        assert found.found.startswith("no step90000..236000")


class TestNames:
    def test_7b_gaps_and_odd_steps(self, shared: Path) -> None:
        found = findings("OLMo-2-1124-7B", listed_names(shared, "OLMo-2-1124-7B"))
        gaps = one(found, "cadence: no ")
        assert gaps.found == (
            "no step100000, step174000, step317000, step536000, step605000, step632000, step672000: 7 steps"
        )
        assert len(one(found, "off the cadence").revisions) == 6

    def test_7b_labels_of_the_ends_of_stage_2(self, shared: Path) -> None:
        found = [
            each for each in findings("OLMo-2-1124-7B", listed_names(shared, "OLMo-2-1124-7B")) if each.kind == "label"
        ]
        assert [each.revisions for each in found] == [(f"stage2-ingredient{k}-step11931-tokens50B",) for k in (1, 2, 3)]
        assert {(each.severity, each.line) for each in found} == {
            (Severity.NOTE, "label: 50B (expected 51B, by the repo's rule (ceil))")
        }

    def test_7b_names_without_a_stage_as_first_published(self, shared: Path) -> None:
        bare = ("step150-tokens1B", "step600-tokens3B")
        found = one(
            findings("OLMo-2-1124-7B", (*listed_names(shared, "OLMo-2-1124-7B"), *bare)), "names without a stage"
        )
        assert found.revisions == bare

    def test_7b_end_of_stage_1_is_on_the_hub_alone_and_step_0_in_the_list_alone(
        self, shared: Path, lists: Path
    ) -> None:
        read = tuple(find_lists([lists], "OLMo-2-1124-7B", known_run("allenai/OLMo-2-1124-7B")))
        found = findings("OLMo-2-1124-7B", listed_names(shared, "OLMo-2-1124-7B"), read)
        assert one(found, "without a row: 1 revision").revisions == ("stage1-step928646-tokens3896B",)
        assert "step0" in one(found, "listed as native checkpoints only").revisions

    def test_0424_lacks_47500_and_has_a_round_label(self, shared: Path) -> None:
        found = findings("OLMo-7B-0424-hf", listed_names(shared, "OLMo-7B-0424-hf"))
        assert one(found, "cadence: no step47500 ")
        assert [each.revisions for each in found if each.kind == "label"] == [("step477000-tokens2000B",)]
        assert one(found, "names without a step").revisions == ("nitro",)

    def test_0724_gaps(self, shared: Path) -> None:
        found = one(findings("OLMo-7B-0724-hf", listed_names(shared, "OLMo-7B-0724-hf")), "cadence: no ")
        assert found.found == "no step191000..198000, step19500, step64000, step65500, step115000: 12 steps"

    def test_1b_has_nothing_between_117850_and_330000(self, shared: Path) -> None:
        found = one(findings("OLMo-1B", listed_names(shared, "OLMo-1B")), "cadence: no ")
        assert found.found.startswith("no step118000..329000, ")

    @pytest.mark.parametrize(
        "repo",
        ["OLMo-7B", "OLMoE-1B-7B-0924", "OLMo-2-0425-1B", "OLMo-2-0425-1B-early-training", "OLMo-2-1124-13B", "OLMo-2-0325-32B",
         "Olmo-3-1025-7B", "Olmo-3-1125-32B", "Olmo-Hybrid-7B"],
    )  # fmt: skip
    def test_clean_names_raise_no_alarm(self, shared: Path, repo: str) -> None:
        assert [
            each.line for each in findings(repo, listed_names(shared, repo)) if each.severity is not Severity.NOTE
        ] == []
