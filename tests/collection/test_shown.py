"""Plans, effects and checkpoints by their place, as a notebook's reader meets them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import olmo_dynamics as od
from olmo_dynamics.errors import UnknownRevisionError
from olmo_dynamics.interventions import Effect
from olmo_dynamics.names import Site
from tests.conftest import REVISIONS
from tests.frames.test_shown import HOSTILE, harmless
from tests.store.test_layout import message


def test_a_plan_is_the_table_of_a_dry_run(tiny_run: Path) -> None:
    plan = od.plan(tiny_run, record="parameters", rate=100e6)
    assert list(plan.facts) == [
        "source", "revisions", "dtype", "bytes", "requests", "tokens", "memory", "download", "compute", "time"
    ]  # fmt: skip
    assert plan.facts["revisions"] == "4 to measure, 0 already in the store"
    lines = str(plan).splitlines()
    assert lines[0] == f"Plan of {tiny_run}" and lines[2] == "  revisions  4 to measure, 0 already in the store"
    harmless(plan._repr_html_())


def test_an_effect_tells_the_loss_before_and_after() -> None:
    effect = Effect(HOSTILE, Site.RESIDUAL_OUT, 3, 2.0, 2.5, {"code": 1.0}, {"code": 1.25})
    assert str(effect) == f"{HOSTILE} at residual_out of layer 3: 2.0000 → 2.5000 nats per token (+0.5000)"
    html = effect._repr_html_()
    harmless(html)
    assert "+0.2500" in html


def test_a_model_is_loaded_by_the_place_of_its_revision(tiny_run: Path) -> None:
    run = od.Run(tiny_run)
    by_name = od.load_model(run, REVISIONS[1])
    for revision in (1, run[1], run.at(step=10)):
        loaded = od.load_model(run, revision)
        assert torch.equal(loaded.state_dict()["model.norm.weight"], by_name.state_dict()["model.norm.weight"])
    expected = f"{tiny_run} has 4 revisions, so a place must be -4 to 3 (got 100); for a step, use run.at(step=100)"
    with pytest.raises(UnknownRevisionError, match=message(expected)):
        od.load_model(run, 100)
