"""A base model and its post-training on one axis: borders, own steps, and lines that go on across runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.plots import trajectory
from olmo_dynamics.plots.seeds.phase_axis import PLACE, SHARE
from olmo_dynamics.plots.theme import Style
from tests.plots.drawing import drawn, encodings, subtitle

BASE, SFT, DPO = "org/base-7B", "org/base-7B-SFT", "org/base-7B-DPO"
OF_BASE = {(1, 0): (0, 0), (1, 100): (100, 400), (1, 1000): (1000, 4000), (2, 500): (1500, 5000)}


def rows(run: str, recipe: str, steps: tuple[int, ...], number: int, phase: str, parent: str) -> list[dict[str, Any]]:
    """Rows of post-training, whose tokens are not known."""
    return [
        {"revision": f"{run}@step{step}", "run": run, "recipe": recipe, "size": "7B", "family": "olmo", "seed": None, "line": run,
         "stage": None, "ingredient": None, "step": step, "tokens": None, "position_step": 1500 + step if number == 1 else None,
         "position_tokens": None, "phase": phase, "phase_number": number, "starts_from": parent, "rms": 1 - step / 100}
        for step in steps
    ]  # fmt: skip


def framed(given: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a table of joined runs has them."""
    texts = dict.fromkeys(("seed", "ingredient", "phase", "starts_from"), pl.String)
    numbers = dict.fromkeys(("stage", "tokens", "position_step", "position_tokens"), pl.Int64)
    return pl.DataFrame(given, infer_schema_length=None, schema_overrides={**texts, **numbers})


def table(*, phases: bool = True) -> pl.DataFrame:
    """A base of two stages, SFT of it and DPO of that."""
    base = [
        {"revision": f"{BASE}@stage{stage}-step{step}", "run": BASE, "recipe": "base", "size": "7B", "family": "olmo",
         "seed": None, "line": f"{BASE}/stage{stage}", "stage": stage, "ingredient": None,
         "step": step, "tokens": tokens - 4000 * (stage - 1),
         "position_step": position, "position_tokens": tokens, "phase": None, "phase_number": 0, "starts_from": None,
         "rms": 2 - tokens / 5000}
        for (stage, step), (position, tokens) in OF_BASE.items()
    ]  # fmt: skip
    post = rows(SFT, "base-SFT", (0, 20, 40), 1, "SFT", BASE) + rows(DPO, "base-DPO", (0, 8), 2, "DPO", SFT)
    return framed([*base, *(post if phases else [])])


def means(chart: Any) -> list[dict[str, Any]]:
    """The rows of means over seeds, that is of the lines of trainings."""
    [data] = chart.to_dict()["datasets"].values()
    return [row for row in data if row["kind"] == "mean"]


@pytest.mark.parametrize("x", ["step", "tokens"])
def test_phases_are_drawn_by_their_own_steps_behind_borders(x: str) -> None:
    chart = trajectory(table(), "rms", x=x, style=Style(x_scale="linear"))
    ends = {"step": 1500, "tokens": 5000}
    of_base = [position[x == "tokens"] / ends[x] for position in OF_BASE.values()]
    of_phases = [1 + SHARE * np.array([0, 20, 40]) / 40, 1 + SHARE + SHARE * np.array([0, 8]) / 8]
    expected = np.concatenate([of_base, *of_phases])
    own = [row for row in means(chart) if not row.get("joint")]
    np.testing.assert_allclose([row[PLACE] for row in own], expected, atol=1e-6)
    borders = {(row["border"], row["border_name"]) for row in own if row.get("border")}
    begins = {"step": 1000 / 1500, "tokens": 4000 / 5000}[x]
    assert borders == {(round(begins, 6), "stage 2 →"), (1.0, "SFT →"), (1 + SHARE, "DPO →")}
    first = {"step": "step", "tokens": "tokens seen"}[x]
    titles = [found["title"] for found in encodings(chart.to_dict(), "x") if "title" in found]
    assert titles[0] == [f"{first}, counted through all stages", "after a dashed line: its own steps"]
    assert "SFT and DPO by their own steps, since their places in tokens are not known" in subtitle(chart)


def test_one_line_goes_on_from_run_to_run() -> None:
    chart = trajectory(table(), "rms", x="tokens")
    joints = {(row["line"], row["revision"]) for row in means(chart) if row.get("joint")}
    assert joints == {
        ("stage2", f"{BASE}@stage1-step1000"),
        ("SFT", f"{BASE}@stage2-step500"),
        ("DPO", f"{SFT}@step40"),
    }
    assert drawn(chart)["line"] >= 4
    assert {row["training"] for row in means(chart)} == {""}  # one training has one colour


def test_an_unknown_parent_makes_a_line_of_its_own() -> None:
    stranger = rows("org/other-SFT", "other-SFT", (0, 30), 0, "", "")
    whole = pl.concat([table(), framed(stranger)])
    chart = trajectory(whole.with_columns(pl.col("phase", "starts_from").replace("", None)), "rms", x="tokens")
    assert not any(row["run"] == "org/other-SFT" for row in means(chart))
    assert "2 revisions without a known place in the training" in subtitle(chart)
    alone = table().filter(pl.col("run") != SFT)  # the run between the base and DPO is not there
    drawn_lines = {row["line"] for row in means(trajectory(alone, "rms", x="tokens")) if row.get("joint")}
    assert drawn_lines == {"base/stage2"}


def test_two_phases_of_one_base_are_trainings_of_their_own_names() -> None:
    both = rows(SFT, "base-SFT", (0, 40), 1, "SFT", BASE) + rows(
        "org/base-7B-Code", "base-Code", (0, 10), 1, "SFT", BASE
    )
    frame = pl.concat([table(phases=False), framed(both)])
    chart = trajectory(frame, "rms", x="tokens")
    assert {row["training"] for row in means(chart)} == {"base", "base-SFT", "base-Code"}
    joints = {
        (row["line"], row["revision"]) for row in means(chart) if row.get("joint") and row["line"] != "base/stage2"
    }
    assert joints == {(f"{name}/SFT", f"{BASE}@stage2-step500") for name in ("base-SFT", "base-Code")}


def test_phases_without_their_base_begin_the_axis() -> None:
    chart = trajectory(table().filter(pl.col("phase").is_not_null()), "rms")
    titles = [found["title"] for found in encodings(chart.to_dict(), "x") if "title" in found]
    assert titles[0] == ["steps of SFT", "after a dashed line: its own steps"]
    assert {row.get("border_name") for row in means(chart)} == {None, "DPO →"}
    assert sorted(row[PLACE] for row in means(chart) if not row.get("joint")) == pytest.approx([0, 0.5, 1, 1, 2])
