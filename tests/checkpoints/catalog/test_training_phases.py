"""Several repos as one training, in the order of training."""

from __future__ import annotations

import random

import pytest

from olmo_dynamics.checkpoints import known_run, parse_revision
from olmo_dynamics.checkpoints.catalog.positions import in_training_order
from olmo_dynamics.checkpoints.catalog.run_parts import Phase
from olmo_dynamics.checkpoints.catalog.training_phases import order_trainings

BASE, SFT, DPO, RLVR = (
    "allenai/Olmo-3-1025-7B", "allenai/Olmo-3-7B-Think-SFT", "allenai/Olmo-3-7B-Think-DPO", "allenai/Olmo-3-7B-Think",
)  # fmt: skip
EARLY, ONE = "allenai/OLMo-2-0425-1B-early-training", "allenai/OLMo-2-0425-1B"
STAGES = (1413814, 47684, 11921)  # the steps of the three stages of Olmo 3 7B

Row = tuple[str, str, int, str, int | None, int | None, bool]


def ordered(*pairs: tuple[str, str]) -> list[Row]:
    """Name, training, part, phase, position and border of each, given in another order."""
    shuffled = list(pairs)
    random.Random(0).shuffle(shuffled)
    shuffled.sort(key=lambda pair: pair[0] != pairs[0][0])  # the first repo stays the first
    return [
        (
            each.name, each.training, each.part, each.phase, each.revision.position_step, each.revision.position_tokens,
            each.is_after_border,
        )
        for each in order_trainings((repo, parse_revision(name)) for repo, name in shuffled)
    ]  # fmt: skip


def test_post_training_follows_its_base_in_its_own_steps() -> None:
    end = sum(STAGES)
    found = ordered(
        (RLVR, "step_0025"), (DPO, "main"), (SFT, "step1000"), (SFT, "step43000"), (BASE, "stage3-step11921"),
        (BASE, "stage1-step1000"),
    )  # fmt: skip
    tokens = (STAGES[0] * 512 * 8192) + (STAGES[1] * 256 * 8192) + STAGES[2] * 64 * 65536
    assert found == [
        (f"{BASE}@stage1-step1000", BASE, 0, "", 1000, 1000 * 512 * 8192, False),
        (f"{BASE}@stage3-step11921", BASE, 0, "", end, tokens, False),
        (f"{SFT}@step1000", BASE, 1, "SFT", end + 1000, None, True),
        (f"{SFT}@step43000", BASE, 1, "SFT", end + 43000, None, True),
        (f"{DPO}@main", BASE, 2, "DPO", None, None, True),
        (f"{RLVR}@step_0025", BASE, 3, "RLVR", None, None, True),
    ]


def test_a_rerun_is_before_its_run_and_marked() -> None:
    batch = 512 * 4096
    assert ordered((ONE, "stage1-step10000-tokens21B"), (EARLY, "stage1-step37000-tokens78B")) == [
        (f"{EARLY}@stage1-step37000-tokens78B", ONE, 0, "re-run", 37000, 37000 * batch, False),
        (f"{ONE}@stage1-step10000-tokens21B", ONE, 0, "", 10000, 10000 * batch, False),
    ]


def test_an_unknown_parent_makes_a_training_of_its_own() -> None:
    instruct, other = "allenai/Olmo-3-7B-Instruct", "someone/finetuned-olmo-3"
    assert ordered((BASE, "stage1-step1000"), (instruct, "step_0050"), (other, "step7")) == [
        (f"{BASE}@stage1-step1000", BASE, 0, "", 1000, 1000 * 512 * 8192, False),
        (f"{other}@step7", other, 0, "", 7, None, False),
        (f"{instruct}@step_0050", instruct, 0, "", None, None, False),
    ]


def test_a_position_that_a_source_gave_is_kept() -> None:
    listed = in_training_order(map(parse_revision, ("stage1-step90", "stage2-step5")))
    assert [each.revision.position_step for each in order_trainings([("a/run", listed[1])])] == [95]


def test_every_phase_starts_from_a_known_repo_and_no_phase_from_itself() -> None:
    phases = [
        phase for repo in (SFT, "allenai/Olmo-3-32B-Think", "allenai/OLMoE-1B-7B-0924-SFT") for phase in _of(repo)
    ]
    assert all(known_run(phase.origin[0]) is not None for phase in phases)
    assert all(phase.origin[0] != phase.repo for phase in phases)
    with pytest.raises(ValueError, match="a phase must have a name, a reference and a start such as org/name@main"):
        Phase("a/b", "SFT", "a/c", "a page")


def _of(repo: str) -> tuple[Phase, ...]:
    run = known_run(repo)
    assert run is not None
    return run.phases
