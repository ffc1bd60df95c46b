"""Options of a fork: declared once, checked, and refused by a clear line when misspelt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.fork.keywords import ForkKeywords
from olmo_dynamics.training.fork.options import FORK_OPTIONS, ForkOptions
from olmo_dynamics.training.fork.run import fork, next_batches
from olmo_dynamics.training.recipe import Recipe
from tests.conftest import ROOT


def test_keywords_are_the_fields() -> None:
    keywords = {name: each.__forward_arg__ for name, each in ForkKeywords.__annotations__.items()}
    assert keywords == ForkOptions.__annotations__ and list(keywords) == list(FORK_OPTIONS)


def test_options_of_the_recipe_are_fields_of_it() -> None:
    assert {name for name, each in FORK_OPTIONS.items() if each.in_recipe} <= set(Recipe.__dataclass_fields__)
    assert ForkOptions(clip=2.0, lr=1e-3).of_recipe() == {"clip": 2.0}


def test_text_stands_for_the_values_of_the_command_line() -> None:
    given = ForkOptions(batch="2x16", save="1,10", batch_warmup="500:32,1000:64")
    assert (given.batch, given.save, given.batch_warmup) == ((2, 16), (1, 10), ((500, 32), (1000, 64)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shedule": "linear"}, "unknown option 'shedule'; did you mean 'schedule'?"),
        ({"decay_stepps": 3}, "unknown option 'decay_stepps'; did you mean 'decay_steps'?"),
        ({"xyz": 3}, "unknown option 'xyz'"),
        ({"schedule": "lin"}, "schedule must be one of parent, constant, linear, cosine, wsd (got 'lin')"),
        ({"lr": -1.0}, "lr must be at least 0 (got -1.0)"),
        ({"lr": float("nan")}, "lr must be at least 0 (got nan)"),
        ({"eval_every": 0}, "eval_every must be at least 1 (got 0)"),
        ({"keep": 0}, "keep must be at least 1 (got 0)"),
        ({"keep": True}, "keep must be a whole number (got True)"),
        ({"eval_every": "ten"}, "eval_every must be a whole number (got 'ten')"),
        ({"lr": "1e-3"}, "lr must be a number (got '1e-3')"),
        ({"compile": 1}, "compile must be True or False (got 1)"),
        ({"batch": "2by16"}, "batch must be sequences x tokens, such as 16x128 (got '2by16')"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        fork(tmp_path, "step1", data=["a.npy"], out=tmp_path / "out", steps=1, **changes)
    assert str(caught.value) == message
    with pytest.raises(OptionError) as caught:
        next_batches(tmp_path, "step1", data=["a.npy"], **changes)
    assert str(caught.value) == message


def test_the_declarations_load_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, olmo_dynamics.training.fork.options, olmo_dynamics.forks, olmo_dynamics.cli.training.fork\n"
        "assert not {'torch', 'numpy', 'polars', 'zarr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
