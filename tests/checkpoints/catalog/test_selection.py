"""Selection expressions: the grammar, the thinnings, and the messages of mistakes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision, sort_key
from olmo_dynamics.checkpoints.catalog.selection import GRAMMAR, select
from olmo_dynamics.errors import SelectionError
from olmo_dynamics.names import Revision

TOKENS_PER_STEP = 2**21
NAMES = [
    *(f"stage1-step{step}-tokens{math.ceil(step * TOKENS_PER_STEP / 1e9)}B" for step in range(0, 50_000, 1000)),
    *(f"stage2-ingredient{k}-step{step}-tokens{math.ceil(step * TOKENS_PER_STEP / 1e9)}B"
      for k in (1, 2, 3) for step in (1000, 2000, 3000)),
    "stage2-ingredient1+2-step3000",
    "nitro",
    "main",
]  # fmt: skip

LAST_OF_STAGE_2 = [*(f"stage2-ingredient{k}-step3000-tokens7B" for k in (1, 2, 3)), "stage2-ingredient1+2-step3000"]


def revisions(*names: str) -> list[Revision]:
    parsed = [parse_revision(name) for name in names or NAMES]
    return [replace(each, tokens=None if each.step is None else each.step * TOKENS_PER_STEP) for each in parsed]


def chosen(expression: str, *names: str) -> list[str]:
    return [revision.name for revision in select(revisions(*names), expression)]


def steps(expression: str) -> list[int | None]:
    return [revision.step for revision in select(revisions(), expression)]


def test_all_is_every_revision_once() -> None:
    assert chosen("all") == NAMES
    assert chosen("all,main,*") == NAMES


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("main", ["main"]),
        ("nitro,main", ["nitro", "main"]),
        ("main,nitro", ["nitro", "main"]),  # natural order, whatever the order of the terms
        ("stage2:ingredient2", [f"stage2-ingredient2-step{s}-tokens{t}B" for s, t in ((1000, 3), (2000, 5), (3000, 7))]),
        ("ingredient1+2", ["stage2-ingredient1+2-step3000"]),
        ("stage2-ingredient1+2-step3000", ["stage2-ingredient1+2-step3000"]),
        ("stage1:step47000..", ["stage1-step47000-tokens99B", "stage1-step48000-tokens101B", "stage1-step49000-tokens103B"]),
        ("stage1:step..1000", ["stage1-step0-tokens0B", "stage1-step1000-tokens3B"]),
        ("stage1:step3000", ["stage1-step3000-tokens7B"]),
        ("stage1:step3K..4k", ["stage1-step3000-tokens7B", "stage1-step4000-tokens9B"]),
        ("stage1:tokens10B..13B", ["stage1-step5000-tokens11B", "stage1-step6000-tokens13B"]),
        ("stage1:tokens0.1T..", ["stage1-step48000-tokens101B", "stage1-step49000-tokens103B"]),
        ("stage1:tokens..3000M:last1", ["stage1-step1000-tokens3B"]),
        ("*ingredient3*:last1", ["stage2-ingredient3-step3000-tokens7B"]),
        ("stage?-step0-*", ["stage1-step0-tokens0B"]),
        (" stage1:first1 ", ["stage1-step0-tokens0B"]),
        ("stage1:first1, main", ["stage1-step0-tokens0B", "main"]),
        ("all:last1", ["stage1-step49000-tokens103B", *LAST_OF_STAGE_2, "main"]),
        ("stage2:ingredient1:every2", ["stage2-ingredient1-step1000-tokens3B", "stage2-ingredient1-step3000-tokens7B"]),
        ("stage1:log1", ["stage1-step49000-tokens103B"]),
        ("step48000..:last2,nitro", ["stage1-step48000-tokens101B", "stage1-step49000-tokens103B", "nitro"]),
        ("stage2:last1", LAST_OF_STAGE_2),
        ("stage1:log2", ["stage1-step0-tokens0B", "stage1-step49000-tokens103B"]),
        ("stage1:log3", ["stage1-step0-tokens0B", "stage1-step1000-tokens3B", "stage1-step49000-tokens103B"]),
    ],
)  # fmt: skip
def test_terms(expression: str, expected: list[str]) -> None:
    assert chosen(expression) == expected


def test_ranges_without_ends_are_everything_that_has_the_number() -> None:
    assert chosen("step..") == chosen("tokens..") == [name for name in NAMES if name not in ("nitro", "main")]


def test_the_contracts_example() -> None:
    names = chosen("stage1:log24,stage2:ingredient3:every5,main")
    assert len(names) == 24 + 1 + 1
    assert names[0] == "stage1-step0-tokens0B"
    assert names[23:] == ["stage1-step49000-tokens103B", "stage2-ingredient3-step1000-tokens3B", "main"]


def test_log_spacing_is_even_where_the_saved_steps_are_dense_enough() -> None:
    dense = [Revision(f"step{step}", step=step) for step in range(10_001)]
    found = [revision.step for revision in select(dense, "all:log9")]
    assert found == [0, 1, 4, 14, 52, 193, 720, 2683, 10000]  # 10000 ** (k / 7), rounded in log


def test_without_step_0_both_ends_are_still_kept() -> None:
    assert steps("stage1:step2000..32000:log5") == [2000, 4000, 8000, 16000, 32000]


def test_more_asked_for_than_there_are() -> None:
    assert chosen("stage2:ingredient1:log9") == chosen("stage2:ingredient1")
    assert chosen("stage2:ingredient1:first9") == chosen("stage2:ingredient1:last9") == chosen("stage2:ingredient1")


def test_several_runs_that_share_step_0() -> None:
    names = [f"stage2-ingredient{k}-step0" for k in (1, 2, 3)] + ["stage2-ingredient1-step1000"]
    assert chosen("all:log3", *names) == [names[0], names[3], names[1], names[2]]
    assert chosen("all:log1", *names) == [names[3], names[1], names[2]]


SEEDS = [f"step{step}-seed-{seed}" for seed in ("default", "small-aux-2") for step in (0, 1000, 2000, 4000)]
NUMBERED = [f"seed{seed}-step{step}" for seed in (2, 10) for step in (5, 50)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("all", [*NUMBERED, *SEEDS]),
        ("seed*", [*NUMBERED, *SEEDS]),
        ("seed-default", SEEDS[:4]),
        ("seed-small-*", SEEDS[4:]),
        ("seed2", NUMBERED[:2]),
        ("seed-2", NUMBERED[:2]),
        ("seed_010", NUMBERED[2:]),
        ("seed1*", NUMBERED[2:]),
        ("*seed-default", SEEDS[:4]),
        ("seed-default:log3", [SEEDS[0], SEEDS[1], SEEDS[3]]),
        ("seed-*:log3", [SEEDS[place] for place in (0, 1, 3, 4, 5, 7)]),
        ("step1000..:first1", [SEEDS[1], SEEDS[5]]),
        ("last1", [NUMBERED[1], NUMBERED[3], SEEDS[3], SEEDS[7]]),
        ("seed2-step5", ["seed2-step5"]),
    ],
)
def test_every_seed_is_a_line_of_its_own(expression: str, expected: list[str]) -> None:
    assert chosen(expression, *SEEDS, *NUMBERED) == expected


@pytest.mark.parametrize("odd", ["stage1", "all", "log3", "main*", "a,b", "x:first2", "step1..5", "first2:y", "wip+1"])
def test_an_exact_name_wins_over_every_other_reading(odd: str) -> None:
    assert chosen(odd, odd, "stage1-step5", "other") == [odd]


def test_a_source_that_repeats_a_name() -> None:
    assert chosen("all", "main", "step1", "main") == ["step1", "main"]


def inventory(names: str = "stage1-step0-tokens0B, stage1-step31000-tokens66B, main") -> str:
    return (
        "there are 50 in stage 1, 3 in stage 2 ingredient 1, 3 in stage 2 ingredient 2, 3 in stage 2 ingredient 3, "
        f"1 in stage 2 ingredient 1+2, 2 named only; steps 0 to 49000; for example {names}"
    )


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("stage9", f"'stage9' matches no revision; {inventory()}"),
        ("stage1:step1..999", f"'stage1:step1..999' matches no revision; {inventory()}"),
        ("main,stage2:ingredient7:log3", f"'stage2:ingredient7:log3' matches no revision; {inventory()}"),
        ("seed7", f"'seed7' matches no revision; {inventory()}"),
        ("seedling", f"cannot read 'seedling': {GRAMMAR}"),
        ("fp32*", f"'fp32*' matches no revision; {inventory()}"),
        ("", f"an empty filter (or an empty term) selects nothing; {GRAMMAR}"),
        ("main,", f"an empty filter (or an empty term) selects nothing; {GRAMMAR}"),
        ("stage1::first2", f"an empty filter in 'stage1::first2' selects nothing; {GRAMMAR}"),
        ("everything", f"cannot read 'everything': {GRAMMAR}"),
        ("stage1:step1000-2000", f"cannot read 'step1000-2000' in 'stage1:step1000-2000': {GRAMMAR}"),
        ("stage1:tokens5G..", f"cannot read 'tokens5G..' in 'stage1:tokens5G..': {GRAMMAR}"),
        ("step", "'step' has no range: write step1000..90000 or tokens10B..1T; one end may be left out"),
        ("tokens2B..1B", "'tokens2B..1B' runs backwards: write the smaller end first"),
        ("mian", "no revision or filter is called 'mian'; did you mean 'main'?"),
        ("stage2-ingredient3-step3000-tokens8B",
         "no revision or filter is called 'stage2-ingredient3-step3000-tokens8B'; did you mean "
         "'stage2-ingredient3-step3000-tokens7B', 'stage2-ingredient3-step2000-tokens5B' or "
         "'stage2-ingredient3-step1000-tokens3B'?"),
        ("log24:stage1", "'log24' in 'log24:stage1' must come last, once and after the filters, such as stage1:log24"),
        ("all:log9:first2", "'log9' in 'all:log9:first2' must come last, once and after the filters, such as stage1:log9"),
        ("all:every0", "'all:every0' keeps nothing: the number after every must be at least 1 (got 0)"),
        ("main:log4", "'main:log4' spaces by step, but no revision that it matches has a step (main); use every, first or last"),
    ],
)  # fmt: skip
def test_messages(expression: str, message: str) -> None:
    with pytest.raises(SelectionError) as caught:
        chosen(expression)
    assert str(caught.value) == message


def test_an_empty_source() -> None:
    with pytest.raises(SelectionError, match=r"^'all' matches no revision; the source has no revisions$"):
        select([], "all")


def test_unknown_token_counts_are_told() -> None:
    with pytest.raises(SelectionError) as caught:
        select([Revision("step5", step=5)], "tokens1B..2B")
    assert str(caught.value) == (
        "'tokens1B..2B' matches no revision; there are 1 without a stage; steps 5 to 5; no token counts are known; "
        "for example step5"
    )


names = st.one_of(
    st.builds("stage{}-step{}".format, st.integers(1, 3), st.integers(0, 10**6)),
    st.builds("stage2-ingredient{}-step{}".format, st.integers(1, 3), st.integers(0, 10**6)),
    st.builds("step{}-seed-{}".format, st.integers(0, 10**6), st.sampled_from(["default", "7"])),
    st.sampled_from(["main", "nitro"]),
)
sources = st.lists(names, min_size=1, max_size=40, unique=True).map(lambda some: revisions(*some))
filters = st.sampled_from(["all", "seed*", "seed7", "step..", "stage1", "stage2", "*", "step..5000", "main"])
thinnings = st.builds("{}{}".format, st.sampled_from(["log", "every", "first", "last"]), st.integers(1, 12))
terms = st.one_of(filters, st.builds("{}:{}".format, filters, thinnings))


def try_select(source: list[Revision], expression: str) -> list[Revision] | None:
    try:
        return select(source, expression)
    except SelectionError:
        return None


@given(sources, terms, terms)
def test_union_is_idempotent_and_commutes(source: list[Revision], one: str, two: str) -> None:
    left, right = try_select(source, one), try_select(source, two)
    if left is None or right is None:
        assert try_select(source, f"{one},{two}") is None
        return
    both = select(source, f"{one},{two}")
    assert both == select(source, f"{two},{one}") == select(source, f"{one},{two},{one}")
    assert set(both) == set(left) | set(right)


@given(sources, filters, thinnings)
def test_thinning_is_an_ordered_subset(source: list[Revision], term: str, thinning: str) -> None:
    whole, thinned = try_select(source, term), try_select(source, f"{term}:{thinning}")
    if whole is None or thinned is None:
        return
    assert [revision for revision in whole if revision in thinned] == thinned == sorted(thinned, key=sort_key)
    kept = [[each for each in thinned if each.line == line] for line in {each.line: None for each in whole}]
    lines = [[each for each in whole if each.line == line] for line in {each.line: None for each in whole}]
    for own, all_of_it in zip(kept, lines, strict=True):
        if thinning.startswith(("every", "first")):
            assert own[0] == all_of_it[0]
        if thinning.startswith("last"):
            assert own[-1] == all_of_it[-1]
        if not thinning.startswith(("every", "log")):
            assert len(own) == min(len(all_of_it), int(thinning.lstrip("firstal")))


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(1, 70))
def test_log_keeps_the_number_and_the_ends(some: set[int], count: int) -> None:
    source = [Revision(f"step{step}", step=step) for step in some]
    found = [revision.step for revision in select(source, f"all:log{count}")]
    assert len(found) == len(set(found)) == min(count, len(some))
    assert found[-1] == max(some)
    if count > 1:
        assert found[0] == min(some)


@given(sources, st.text(max_size=30))
def test_any_text_selects_something_or_is_a_selection_error(source: list[Revision], text: str) -> None:
    found = try_select(source, text)
    assert found is None or found
