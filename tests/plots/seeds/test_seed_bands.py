"""Means and bands over seeds, with the seeds behind."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.plots import trajectory
from olmo_dynamics.plots.seeds.replicates import LOWER, UPPER, over_seeds
from tests.plots.drawing import drawn, subtitle, titles

STEPS = (0, 10, 20, 40)


def table(*, stages: tuple[int | None, ...] = (None,)) -> pl.DataFrame:
    """Two recipes with three seeds and two domains."""
    rng = np.random.default_rng(0)
    rows = [
        {"revision": f"{recipe}-{seed}@{stage}-{step}", "stage": stage, "ingredient": None, "step": step, "tokens": 4 * step,
         "seed": seed, "run": f"{recipe}-{seed}", "recipe": recipe, "size": "1B", "family": "olmo", "domain": domain,
         "line": f"{recipe}-{seed}" + (f"/stage{stage}" if stage else ""),
         "position_step": step + 40 * (stage or 1) - 40, "position_tokens": 4 * (step + 40 * (stage or 1) - 40),
         "bits_per_byte": 2 - step / 40 + rng.normal() / 10}
        for recipe in ("c4", "dclm") for seed in "123" for stage in stages for step in STEPS for domain in ("prose", "code")
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"stage": pl.Int64, "ingredient": pl.String})


def test_mean_and_band_are_those_of_numpy() -> None:
    frame = table()
    found = over_seeds(frame, "bits_per_byte", "step", ["domain"])
    assert found.height == 2 * len(STEPS) * 2
    for row in found.iter_rows(named=True):
        values = frame.filter(recipe=row["training"], step=row["step"], domain=row["domain"])[
            "bits_per_byte"
        ].to_numpy()
        mean, spread = values.mean(), values.std(ddof=1)
        np.testing.assert_allclose(
            [row["bits_per_byte"], row[LOWER], row[UPPER]], [mean, mean - spread, mean + spread], rtol=1e-5
        )
    lacking = frame.filter(~((pl.col("seed") == "3") & (pl.col("step") == 40)))
    assert 40 not in over_seeds(lacking, "bits_per_byte", "step", ["domain"])["step"]


@pytest.mark.parametrize("x", ["step", "tokens"])
def test_a_trajectory_of_replicates_has_a_mean_a_band_and_thin_lines(x: str) -> None:
    chart = trajectory(table(), "bits_per_byte", x=x)
    marks = drawn(chart)
    assert (marks["area"], marks["line"]) == (2 * 2, 2 * 2 + 2 * 2 * 3)
    assert marks["symbol"] == 2 * 2 * len(STEPS)
    assert "band: ± 1 standard deviation over seeds; thin lines: one seed each." in subtitle(chart)
    assert titles(chart, "color") == {"training"}


def test_bands_of_two_stages_stand_on_one_axis_of_positions() -> None:
    chart = trajectory(table(stages=(1, 2)).filter(recipe="c4", domain="prose"), "bits_per_byte")
    assert titles(chart, "x") == {"step, counted through all stages"}
    assert drawn(chart)["area"] == 2


def test_runs_without_a_second_seed_are_plain_lines() -> None:
    chart = trajectory(table().filter(seed="1", domain="prose"), "bits_per_byte")
    assert "area" not in drawn(chart) and "over seeds" not in str(chart.to_dict()["title"])
