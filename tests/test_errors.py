"""Near names: what an error proposes for a name that does not exist."""

from __future__ import annotations

import pytest

from olmo_dynamics.errors import did_you_mean, near_names


def test_near_names_put_continuations_first() -> None:
    names = ["main", "stage1-step10-tokens1B", "stage1-step100-tokens1B", "stage2-step10"]
    assert near_names("stage1-step10", names, 3) == [
        "stage1-step10-tokens1B",
        "stage1-step100-tokens1B",
        "stage2-step10",
    ]
    assert near_names("nothing like it", names) == []


@pytest.mark.parametrize(
    ("known", "text"),
    [
        ([], ""),
        (["elsewhere"], ""),
        (["steps"], "; did you mean 'steps'?"),
        (["steps", "step"], "; did you mean 'steps' or 'step'?"),
        (["steps", "step", "stop"], "; did you mean 'steps', 'step' or 'stop'?"),
    ],
)
def test_did_you_mean(known: list[str], text: str) -> None:
    assert did_you_mean("stepps", known) == text
