"""Official lists: three forms read strictly, faults kept with their lines, joined with a source's revisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from olmo_dynamics.checkpoints import known_run, parse_revision
from olmo_dynamics.checkpoints.catalog.availability import join_lists
from olmo_dynamics.checkpoints.catalog.official_lists import ListFault, find_lists, parse_list, read_list
from olmo_dynamics.errors import SourceError

BASE = "https://olmo-checkpoints.org/ai2-llm/peteish7"


def two_columns(*rows: str) -> str:
    return "\r\n".join(["Step,Checkpoint Directory", *rows])


class TestForms:
    def test_a_step_a_row(self) -> None:
        [row] = parse_list(two_columns(f"1000,{BASE}/step1000-unsharded/"), "a.csv").rows
        assert (row.line, row.step, row.stage, row.ingredient, row.tokens) == (2, 1000, None, None, None)
        assert (row.key, row.format, row.matches_its_directory, row.name) == ((1, None, 1000), "olmo", True, "step1000")

    def test_ingredients_of_stage_2(self) -> None:
        text = (
            "Ingredient,Step,Checkpoint Directory\n"
            f"3,11931,{BASE}/stage2/ingredient3/step11000-unsharded/\nsoup,11921,{BASE}/stage2/soup/step11921/\n"
            f"2,1000,{BASE}/stage2/ingredient3/step1000-unsharded/"
        )
        rows = parse_list(text, "a.csv").rows
        assert [row.name for row in rows] == ["stage2-ingredient3-step11931", "stage2-ingredientsoup-step11921",
                                              "stage2-ingredient2-step1000"]  # fmt: skip
        assert [row.matches_its_directory for row in rows] == [False, True, False]
        assert [row.merged for row in rows] == [False, True, False]

    @pytest.mark.parametrize(
        ("label", "directory", "name"),
        [
            ("stage1_pretraining", "stage1/step1000/", "stage1-step1000"),
            ("stage_3_longcontext", "stage3/step1000/", "stage3-step1000"),
            ("stage2_midtraining_ingredient2", "stage2/ingredient2-step1000/", "stage2-ingredient2-step1000"),
            ("stage2_midtraining_souped", "stage2/ingredient1+2-step1000/", "stage2-ingredient1+2-step1000"),
            ("stage3_longcontext_souped", "stage3/step1000+900-nooptim/", "stage3-ingredientsoup-step1000"),
        ],
    )
    def test_labels_in_every_spelling(self, label: str, directory: str, name: str) -> None:
        header = "Stage,Step,Tokens Seen,Checkpoint Directory\n"
        [row] = parse_list(f"{header}{label},1000,7,{BASE}/{directory}", "a.csv").rows
        assert (row.name, row.tokens, row.matches_its_directory, row.format) == (name, 7, True, "olmo-core")

    def test_a_byte_order_mark_and_empty_lines_are_no_fault(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("\ufeff" + two_columns("", f"1, {BASE}/step1/ ", ""), encoding="utf-8")
        listed = read_list(tmp_path / "a.csv")
        assert (listed.name, len(listed.rows), listed.faults) == ("a.csv", 1, ())


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("1000", "a row must have 2 cells (got 1)"),
        ("1000,https://a.b/step1000/,x", "a row must have 2 cells (got 3)"),
        ("1e3,https://a.b/step1000/", "Step must be a whole number (got '1e3')"),
        ("1000,/data/step1000/", "Checkpoint Directory must be an address (got '/data/step1000/')"),
    ],
)
def test_rows_that_cannot_be_read_are_kept_as_faults(row: str, what: str) -> None:
    listed = parse_list(two_columns("5,https://a.b/step5/", row, "6,https://a.b/step6/"), "a.csv")
    assert [each.step for each in listed.rows] == [5, 6]
    assert listed.faults == (ListFault(3, what),)


def test_stages_and_tokens_that_cannot_be_read() -> None:
    text = "Stage,Step,Tokens Seen,Checkpoint Directory\npretraining,1,2,https://a.b/step1/\nstage1,1,?,https://a.b/step1/\n"
    assert [fault.what for fault in parse_list(text, "a.csv").faults] == [
        "Stage must be such as stage1_pretraining (got 'pretraining')",
        "Tokens Seen must be a whole number (got '?')",
    ]


def test_a_file_that_is_not_a_list(tmp_path: Path) -> None:
    message = (
        "a.csv is not a list of checkpoints: its header must be Step,Checkpoint Directory or Ingredient,Step,Checkpoint "
        "Directory or Stage,Step,Tokens Seen,Checkpoint Directory (got 'Dataset,Data Directory')"
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
        parse_list("Dataset,Data Directory\n", "a.csv")
    with pytest.raises(SourceError, match=r"^cannot read the list of checkpoints .*none\.csv: "):
        read_list(tmp_path / "none.csv")


def test_the_lists_of_a_folder_are_those_of_the_run(tmp_path: Path) -> None:
    run = known_run("allenai/OLMo-2-1124-7B")
    (tmp_path / "mine.csv").write_text(two_columns(f"1,{BASE}/step1-unsharded/"))
    (tmp_path / "other.csv").write_text(
        two_columns("1,https://olmo-checkpoints.org/ai2-llm/peteish13/step1-unsharded/")
    )
    (tmp_path / "table.csv").write_text("a,b\n")
    assert [each.name for each in find_lists([tmp_path], "allenai/OLMo-2-1124-7B", run)] == ["mine.csv"]
    assert [each.name for each in find_lists([tmp_path / "other.csv"], "x/y", None)] == ["other.csv"]
    with pytest.raises(SourceError, match=rf"^no list in {tmp_path} belongs to x/y; give the file itself$"):
        find_lists([tmp_path], "x/y", None)


class TestJoin:
    REVISIONS = (
        "stage1-step1000-tokens5B",
        "stage1-step3000-tokens13B",
        "stage2-ingredient1-step1000-tokens5B",
        "main",
    )

    def test_says_where_each_step_is(self) -> None:
        listed = parse_list(two_columns(*(f"{step},{BASE}/step{step}-unsharded/" for step in (0, 1000, 2000))), "a.csv")
        revisions = [parse_revision(name) for name in self.REVISIONS]
        found = join_lists(revisions, [listed], known_run("allenai/OLMo-2-1124-7B"))
        assert [(each.revision.name, each.hub, each.native_url.removeprefix(BASE)) for each in found] == [
            ("stage1-step0", False, "/step0-unsharded/"),
            ("stage1-step1000-tokens5B", True, "/step1000-unsharded/"),
            ("stage1-step2000", False, "/step2000-unsharded/"),
            ("stage1-step3000-tokens13B", True, ""),
            ("stage2-ingredient1-step1000-tokens5B", True, ""),
            ("main", True, ""),
        ]
        assert (found[2].revision.tokens, found[2].revision.format) == (2000 * 2**22, "olmo")

    def test_offers_no_directory_that_is_not_what_the_row_says(self) -> None:
        text = two_columns(
            f"1000,{BASE}/step900-unsharded/", "3000,https://olmo-checkpoints.org/ai2-llm/peteish13/step3000/"
        )
        revisions = [parse_revision(name) for name in self.REVISIONS]
        found = join_lists(revisions, [parse_list(text, "a.csv")], known_run("allenai/OLMo-2-1124-7B"))
        assert [each.native_url for each in found] == [""] * 4
