"""Positions continue a stage after the one before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.checkpoints import known_run, parse_revision
from olmo_dynamics.checkpoints.catalog.positions import in_training_order, with_positions
from olmo_dynamics.names import Revision

OLMO2_1B, OLMO3_7B = "allenai/OLMo-2-0425-1B", "allenai/Olmo-3-1025-7B"


def positions(*names: str, source: str = "", whole: bool = True) -> dict[str, tuple[int | None, int | None]]:
    run = known_run(source)
    revisions = (
        in_training_order(map(parse_revision, names), run)
        if whole
        else [Revision(name, stage=2, step=5) for name in names]
    )
    return {
        each.name: (each.position_step, each.position_tokens) for each in with_positions(revisions, run, whole=whole)
    }


def test_the_first_stage_and_names_without_one_begin_at_zero() -> None:
    assert positions("stage1-step10", "step7", "main", source=OLMO2_1B) == {
        "step7": (7, None),
        "stage1-step10": (10, 10 * 512 * 4096),
        "main": (None, None),
    }


def test_known_runs_tell_where_a_stage_began() -> None:
    first, second = 1413814, 47684  # steps of stages 1 and 2 of Olmo 3 7B, of 512 x 8192 and 256 x 8192 tokens
    names = ("stage1-step1000", "stage2-step1000", "stage3-step100")
    assert positions(*names, source=OLMO3_7B) == {
        "stage1-step1000": (1000, 1000 * 512 * 8192),
        "stage2-step1000": (first + 1000, first * 512 * 8192 + 1000 * 256 * 8192),
        "stage3-step100": (first + second + 100, first * 512 * 8192 + second * 256 * 8192 + 100 * 64 * 65536),
    }


def test_otherwise_the_listing_does() -> None:
    names = (
        "stage1-step100",
        "stage1-step200",
        "stage1-step300-longer",
        "stage2-step0",
        "stage2-step50",
        "stage3-step7",
    )
    assert positions(*names) == {
        "stage1-step100": (100, None),
        "stage1-step200": (200, None),
        "stage1-step300-longer": (300, None),
        "stage2-step0": (200, None),
        "stage2-step50": (250, None),
        "stage3-step7": (257, None),
    }


def test_a_branch_continues_its_own_stage_unless_it_began_elsewhere() -> None:
    names = ("a-stage1-step100", "b-stage1-step80", "a-stage2-step5", "b-stage2-step5", "stage2-step5-mix-from-2T-ckpt")
    found = positions(*names)
    assert [found[name][0] for name in names] == [100, 80, 105, 85, None]
    assert positions(names[-1], source=OLMO2_1B) == {names[-1]: (None, None)}


def test_each_seed_continues_its_own_stage() -> None:
    names = (
        "stage1-step100-seed-1",
        "stage1-step80-seed-2",
        "stage2-step5-seed-1",
        "stage2-step5-seed-2",
        "stage2-step5",
    )
    found = positions(*names)
    assert [found[name][0] for name in names] == [100, 80, 105, 85, 105]


def test_without_the_stage_before_a_position_is_not_known() -> None:
    assert positions("stage2-step5", "stage3-step1") == {"stage2-step5": (None, None), "stage3-step1": (None, None)}
    assert positions("stage2-step5", whole=False) == {"stage2-step5": (None, None)}
    assert positions("stage2-step5", source=OLMO2_1B, whole=False) == {"stage2-step5": (1907359 + 5, None)}


@pytest.mark.parametrize(("line", "position"), [("stage1", 50), ("run", 50), ("stage2/ingredient3", 1907359 + 50)])
def test_a_fork_goes_on_from_the_position_of_its_parent(line: str, position: int) -> None:
    fork = Revision("step50-tokens8", step=50, tokens=8, forked_from=line)
    assert [each.position_step for each in with_positions([fork], known_run(OLMO2_1B))] == [position]
    assert fork.line == f"{line}/fork"


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99)), min_size=1, max_size=30))
def test_positions_never_go_back_within_a_training(places: list[tuple[int, int]]) -> None:
    revisions = in_training_order(Revision(f"stage{s}-step{n}", stage=s, step=n, tokens=8 * n) for s, n in places)
    ordered = [each for each in revisions if each.position_step is not None]
    assert [each.position_step for each in ordered] == sorted(each.position_step or 0 for each in ordered)
    assert all(each.position_tokens == 8 * (each.position_step or 0) for each in ordered)
    assert all((each.position_step or 0) >= (each.step or 0) for each in ordered)
