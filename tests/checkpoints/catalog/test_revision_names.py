"""Every published spelling is read, and read back to the same name."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision, sort_key, split_name
from olmo_dynamics.names import Revision

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
LISTS = SHARED / "reference" / "revisions"
DATADECIDE = SHARED / "data" / "datadecide" / "weka_paths.jsonl.gz"


def spell(revision: Revision, *, separator: str = "", width: int = 0) -> str:
    """The name rebuilt from the fields: the grammar in reverse."""
    if revision.step is None:
        return revision.name
    parts = [
        revision.seed_name,
        f"stage{revision.stage}" if revision.stage is not None else "",
        f"ingredient{revision.ingredient}" if revision.ingredient else "",
        revision.prefix or "",
        f"step{separator}{revision.step:0{width}d}",
        f"tokens{revision.token_label}" if revision.token_label else "",
        revision.suffix or "",
    ]
    return "-".join(part for part in parts if part)


def letters(text: str) -> str:
    """A text without the separators of names."""
    return re.sub(r"[-_=./\s]", "", text, flags=re.ASCII)


def assert_covered(name: str) -> None:
    """Every letter of a name belongs to one field, or is in the suffix (of a name without fields: only in the name)."""
    pieces, revision = split_name(name), parse_revision(name)
    assert "".join(piece.text for piece in pieces) == name
    fields = [piece.field for piece in pieces if piece.field]
    assert len(fields) == len(set(fields))
    if fields:
        assert letters(revision.suffix or "") == letters("".join(piece.text for piece in pieces if not piece.field))


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
    ("name", "fields"),
    [
        ("checkpoint-500", {"step": 500}),
        ("checkpoint-500-seed-1", {"step": 500, "seed": "1"}),
        ("global_step123", {"step": 123}),
        ("global_step500_hf", {"step": 500, "suffix": "hf"}),
        ("iter_0000500", {"step": 500}),
        ("step-2000", {"step": 2000}),
        ("ckpt-700", {"step": 700}),
        ("ckpt_042", {"step": 42}),
        ("step3000_tokens12B", {"step": 3000, "token_label": "12B"}),
        ("step3000-12B-tokens", {"step": 3000, "token_label": "12B"}),
        ("step_20k", {"step": 20_000}),
        ("step-1M", {"step": 1_000_000}),
        ("STEP0100", {"step": 100}),
        ("Stage1-Step10-Tokens2b", {"stage": 1, "step": 10, "token_label": "2b"}),
        ("stage_2_ingredient_3_step_7", {"stage": 2, "ingredient": "3", "step": 7}),
        ("stage1-step-40000", {"stage": 1, "step": 40000}),
        ("epoch_1-step500", {"step": 500, "suffix": "epoch_1"}),
        ("epoch=1-step=500.ckpt", {"step": 500, "suffix": "epoch=1-ckpt"}),
        ("ep0-ba1000-rank0", {"step": 1000, "suffix": "ep0-rank0"}),
        ("ckpt_3-step1000", {"step": 1000, "suffix": "ckpt_3"}),
        ("checkpoint-step-1000", {"step": 1000, "suffix": "checkpoint"}),
        ("step69369-seed-default", {"step": 69369, "seed": "default"}),
        ("step0-seed-small-aux-2", {"step": 0, "seed": "small-aux-2"}),
        ("step0-seed-small-aux-2-unsharded", {"step": 0, "seed": "small-aux-2", "suffix": "unsharded"}),
        ("step9-seed-default-epoch_2", {"step": 9, "seed": "default", "suffix": "epoch_2"}),
        ("seed-default_step5", {"step": 5, "seed": "default"}),
        ("seed2-step100", {"step": 100, "seed": "2"}),
        ("seed_007-iter_0010", {"step": 10, "seed": "7"}),
        ("step5-seed2-lora", {"step": 5, "seed": "2", "suffix": "lora"}),
        ("step6250-unsharded-hf", {"step": 6250, "suffix": "unsharded-hf"}),
        ("lr5e-5-step100", {"step": 100, "prefix": "5e-5"}),
        ("step100-5e-5", {"step": 100, "suffix": "5e-5"}),
        ("pythia-160m-step143000", {"step": 143000, "suffix": "pythia-160m"}),
        ("stage2-step10-from-step477000", {"stage": 2, "step": 10, "suffix": "from-step477000"}),
        ("step5-stage1-stage2", {"step": 5, "stage": 1, "suffix": "stage2"}),
        ("ingredients-step1", {"step": 1, "suffix": "ingredients"}),
        ("ingredientsoup-step5", {"ingredient": "soup", "step": 5}),
        ("stage1", {"stage": 1}),
        ("stage2-ingredient1", {"stage": 2, "ingredient": "1"}),
        ("stage1-final", {"stage": 1, "suffix": "final"}),
        ("tokens500B", {"token_label": "500B"}),
    ],
)
def test_names_of_other_makers(name: str, fields: dict[str, Any]) -> None:
    assert parse_revision(name) == Revision(name, **fields)
    assert_covered(name)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("main", "run"),
        ("step1000-unsharded", "run"),
        ("epoch_1-step500-loss2.25", "run"),
        ("stage1-step10", "stage1"),
        ("stage2-ingredient1+2-step23842", "stage2/ingredient1+2"),
        ("stage2-step47684-mix-round5-from-2T-ckpt", "stage2/mix-round5-from-2T-ckpt"),
        ("seed2-step100", "seed2"),
        ("stage1-step5-seed-small-aux-2", "stage1/seed-small-aux-2"),
        ("5e-5-step1000", "5e-5"),
        ("lora-epoch_1-step500", "lora"),
    ],
)
def test_lines_of_training(name: str, line: str) -> None:
    assert parse_revision(name).line == line
    assert replace(parse_revision(name), forked_from="stage1").line == "/".join(
        ["stage1", *(part for part in line.split("/") if part != "run"), "fork"]
    )


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
    ["main", "nitro", "fp32", "load-balancing", "non-annealed", "kto", "kto-lb", "refs/pr/3", "", "step", "5e-5",
     "step12abc", "step1.5", "stage1step3", "step11921+11000+10000", "step٣", "step5\u212a", "step" + "9" * 5000, "500B",
     "1000", "checkpoint-best", "annealed-from-step5"],
)  # fmt: skip
def test_other_names_are_only_names(name: str) -> None:
    assert parse_revision(name) == Revision(name)


@given(st.text())
def test_no_name_is_refused(name: str) -> None:
    revision = parse_revision(name)
    assert revision.name == name
    assert_covered(name)
    assert sort_key(revision) == sort_key(revision)
    assert revision.line


words = st.sampled_from(
    ["stage1", "STEP", "step_05", "5e-5", "seed", "small", "tokens7B", "from", "ckpt-3", "hf", "7", ""]
)


@given(
    st.lists(st.tuples(words, st.sampled_from("-_.=/ "))).map(
        lambda pairs: "".join(word + mark for word, mark in pairs)
    )
)
def test_every_letter_is_kept(name: str) -> None:
    assert_covered(name)
    assert_covered(name.upper())


optional_number = st.none() | st.integers(0, 99)


@given(
    stage=optional_number,
    ingredient=st.none() | st.lists(st.integers(1, 12), min_size=1, max_size=3).map(lambda k: "+".join(map(str, k))),
    prefix=st.none() | st.sampled_from(["5e-5", "1e-4", "2.5e-6"]),
    step=st.integers(0, 10**9),
    token_label=st.none() | st.builds("{}{}".format, st.integers(0, 9999), st.sampled_from("KMBT")),
    seed=st.none() | st.integers(0, 99).map(str) | st.sampled_from(["default", "small-aux-2"]),
    suffix=st.none() | st.from_regex(r"(mix|round|ckpt)([a-zA-Z0-9.+-]{0,20}[a-zA-Z0-9+])?", fullmatch=True),
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
        "stage3-step11921-seed2",
        "stage3-step5-seed10",
        "stage3-step11921-seed-default",
        "checkpoint_final",
        "epoch_2",
        "epoch_10",
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


def test_every_datadecide_name_is_read() -> None:
    if not DATADECIDE.is_file():
        pytest.skip(f"no names of checkpoints at {DATADECIDE}")
    with gzip.open(DATADECIDE, "rt", encoding="utf-8") as file:
        runs = [json.loads(line) for line in file]
    seeds = {"6198": "default", "14": "small-aux-2", "15": "small-aux-3", "4": "large-aux-2", "5": "large-aux-3"}
    counts: Counter[tuple[str, ...]] = Counter()
    for run in runs:
        seed = seeds.get(run["checkpoints_location"].rpartition("-")[2], "default")
        for name in run["revisions"]:
            step = int(re.findall("[0-9]+", name)[0])
            assert parse_revision(name) == Revision(name, step=step, suffix="unsharded-hf")
            published = f"step{step}-seed-{seed}"
            assert parse_revision(published) == Revision(published, step=step, seed=seed)
            counts["step", parse_revision(published).line] += 1
    assert sum(counts.values()) == 31_491
    assert {line for _, line in counts} <= {f"seed-{seed}" for seed in seeds.values()}


def test_fields_of_the_listed_names() -> None:
    if not LISTS.is_dir():
        pytest.skip(f"no revision lists at {LISTS}")
    fields = ("stage", "ingredient", "seed", "step", "token_label", "prefix", "suffix")
    counts: Counter[str] = Counter()
    for _, row in listed():
        revision = parse_revision(row["hf_revision"])
        counts.update(field for field in fields if getattr(revision, field) is not None)
        assert_covered(revision.name)
    assert counts == {"stage": 6534, "ingredient": 343, "step": 9671, "token_label": 5980, "suffix": 3}
