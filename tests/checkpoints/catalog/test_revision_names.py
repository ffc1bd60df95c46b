"""Every published spelling is read, and read back to the same name."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision, sort_key
from olmo_dynamics.names import Revision

LISTS = Path(__file__).resolve().parents[3].parent / "shared" / "reference" / "revisions"


def spell(revision: Revision, *, separator: str = "", width: int = 0) -> str:
    """The name rebuilt from the fields: the grammar in reverse."""
    if revision.step is None:
        return revision.name
    parts = [
        f"stage{revision.stage}" if revision.stage is not None else "",
        f"ingredient{revision.ingredient}" if revision.ingredient else "",
        revision.prefix or "",
        f"step{separator}{revision.step:0{width}d}",
        f"tokens{revision.token_label}" if revision.token_label else "",
        revision.suffix or "",
    ]
    return "-".join(part for part in parts if part)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("step0-tokens0B", {"step": 0, "token_label": "0B"}),
        ("step557000-tokens2464B", {"step": 557000, "token_label": "2464B"}),
        ("step20000-tokens84B", {"step": 20000, "token_label": "84B"}),
        ("step738000-tokens3095B", {"step": 738000, "token_label": "3095B"}),
        ("step738020-tokens3095B", {"step": 738020, "token_label": "3095B"}),
        ("step738020-tokens3094B", {"step": 738020, "token_label": "3094B"}),
        ("step1454000-tokens3048B", {"step": 1454000, "token_label": "3048B"}),
        ("step477000-tokens2000B", {"step": 477000, "token_label": "2000B"}),
        ("step115000-tokens482B", {"step": 115000, "token_label": "482B"}),
        ("stage1-step101000-tokens424B", {"stage": 1, "step": 101000, "token_label": "424B"}),
        ("stage1-step928646", {"stage": 1, "step": 928646}),
        ("stage1-step721901-tokens6056B", {"stage": 1, "step": 721901, "token_label": "6056B"}),
        (
            "stage2-ingredient1-step11931-tokens50B",
            {"stage": 2, "ingredient": "1", "step": 11931, "token_label": "50B"},
        ),
        (
            "stage2-ingredient3-step35763-tokens301B",
            {"stage": 2, "ingredient": "3", "step": 35763, "token_label": "301B"},
        ),
        ("stage1-step656000", {"stage": 1, "step": 656000}),
        ("stage2-ingredient2-step23842", {"stage": 2, "ingredient": "2", "step": 23842}),
        ("stage2-ingredient1+2-step23842", {"stage": 2, "ingredient": "1+2", "step": 23842}),
        ("stage3-step11921", {"stage": 3, "step": 11921}),
        (
            "stage2-step47684-mix-gen-mc-only-from-2T-ckpt",
            {"stage": 2, "step": 47684, "suffix": "mix-gen-mc-only-from-2T-ckpt"},
        ),
        (
            "stage2-step47684-mix-math-code-reasoning-web-from-2T-ckpt",
            {"stage": 2, "step": 47684, "suffix": "mix-math-code-reasoning-web-from-2T-ckpt"},
        ),
        (
            "stage2-step47684-mix-round5-from-2T-ckpt",
            {"stage": 2, "step": 47684, "suffix": "mix-round5-from-2T-ckpt"},
        ),
        ("step5000-tokens20B", {"step": 5000, "token_label": "20B"}),
        ("step1000", {"step": 1000}),
        ("step43000", {"step": 43000}),
        ("5e-5-step1000", {"prefix": "5e-5", "step": 1000}),
        ("1e-4-step10790", {"prefix": "1e-4", "step": 10790}),
        ("step40-unsharded", {"step": 40, "suffix": "unsharded"}),
        ("step100-tokens409600", {"step": 100, "token_label": "409600"}),
    ],
)
def test_published_names_are_read_and_spelled_back(name: str, fields: dict[str, Any]) -> None:
    assert parse_revision(name) == Revision(name, **fields)
    assert spell(parse_revision(name)) == name


@pytest.mark.parametrize(
    ("name", "step", "width"),
    [
        ("step_0025", 25, 4),
        ("step_1375", 1375, 4),
        ("step_050", 50, 3),
        ("step_750", 750, 3),
        ("step_0050", 50, 4),
        ("step_2300", 2300, 4),
        ("step_1900", 1900, 4),
        ("step_0100", 100, 4),
        ("step_2800", 2800, 4),
    ],
)
def test_padded_steps_are_numbers(name: str, step: int, width: int) -> None:
    assert parse_revision(name) == Revision(name, step=step)
    assert spell(parse_revision(name), separator="_", width=width) == name


@pytest.mark.parametrize(
    "name",
    ["main", "nitro", "fp32", "load-balancing", "non-annealed", "kto", "kto-lb", "refs/pr/3", "", "step", "step-5",
     "steps100", "step12abc", "stage1", "stage2-ingredient1", "step11921+11000+10000", "step٣", "step" + "9" * 5000],
)  # fmt: skip
def test_other_names_are_only_names(name: str) -> None:
    assert parse_revision(name) == Revision(name)


@given(st.text())
def test_no_name_is_refused(name: str) -> None:
    revision = parse_revision(name)
    assert revision.name == name
    sort_key(revision)


optional_number = st.none() | st.integers(0, 99)


@given(
    stage=optional_number,
    ingredient=st.none() | st.lists(st.integers(1, 12), min_size=1, max_size=3).map(lambda k: "+".join(map(str, k))),
    prefix=st.none() | st.sampled_from(["5e-5", "1e-4", "2.5e-6"]),
    step=st.integers(0, 10**9),
    token_label=st.none() | st.builds("{}{}".format, st.integers(0, 9999), st.sampled_from("KMBT")),
    suffix=st.none() | st.from_regex(r"(mix|round|ckpt)[a-zA-Z0-9.+-]{0,20}", fullmatch=True),
)
def test_spelling_and_reading_are_inverse(**fields: Any) -> None:
    name = spell(Revision("", **fields))
    assert parse_revision(name) == Revision(name, **fields)


def test_natural_order() -> None:
    ordered = [
        "step_0025",
        "step_0100",
        "5e-5-step1000",
        "5e-5-step10790",
        "1e-4-step1000",
        "stage1-step0-tokens0B",
        "stage1-step1000-tokens3B",
        "stage1-step20000-tokens42B",
        "stage2-step47684",
        "stage2-step47684-mix-round5-from-2T-ckpt",
        "stage2-ingredient1-step9000",
        "stage2-ingredient2-step1000",
        "stage2-ingredient10-step1000",
        "stage2-ingredient1+2-step23842",
        "stage3-step11921",
        "fp32",
        "nitro",
        "main",
    ]
    backwards = [parse_revision(name) for name in reversed(ordered)]
    assert [revision.name for revision in sorted(backwards, key=sort_key)] == ordered


def listed() -> Iterator[tuple[str, dict[str, str]]]:
    for path in sorted(LISTS.glob("revisions_*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["hf_revision"]:
                    yield path.stem.removeprefix("revisions_"), row


def stage_and_ingredient(column: str) -> tuple[int | None, str | None]:
    """The lists' stage column, whose spelling differs between lists, as the two fields it means."""
    if column in ("pretrain", "final", "other"):
        return None, None
    words = column.replace("stage_", "stage").replace("_", "-").split("-")
    ingredient = next((word.removeprefix("ingredient") for word in words if word.startswith("ingredient")), None)
    if words[-1] == "souped":
        ingredient = "1+2"  # the merged midtraining run; the merged long-context run has no revision of its own
    return int(words[0].removeprefix("stage")), ingredient


def test_every_listed_revision_is_read() -> None:
    if not LISTS.is_dir():
        pytest.skip(f"no revision lists at {LISTS}")
    seen = 0
    for repo, row in listed():
        revision = parse_revision(row["hf_revision"])
        step = int(row["step"]) if row["step"] else None
        assert (revision.stage, revision.ingredient) == stage_and_ingredient(row["stage"]), (repo, row)
        assert revision.step == step, (repo, row)
        assert spell(revision) == revision.name, (repo, row)
        seen += 1
    assert seen > 9_000
