"""Trainings on one picture: any number, any source, with their differences where seeds pair."""

from __future__ import annotations

import re

import polars as pl
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import JoinedStore, SeedComparison
from olmo_dynamics.plots.comparing import CurveComparison
from tests.frames.joining.conftest import recipes
from tests.plots.drawing import drawn, encodings
from tests.store.test_layout import message

__all__ = ["recipes"]


def seeded(recipes: JoinedStore) -> dict[str, pl.DataFrame]:
    """One seed of each recipe."""
    table = recipes.table("loss")
    return {
        recipe: table.filter(recipe=recipe, seed="default") for recipe in table["recipe"].unique(maintain_order=True)
    }


def test_three_trainings_are_three_colours_in_a_panel_per_domain(recipes: JoinedStore) -> None:
    found = od.compare(seeded(recipes), "bits_per_byte")
    assert found.notes == ("Differences need two sides (got 3).",)
    assert drawn(found.chart())["line"] == 3 * 2
    [sides] = {
        tuple(each["scale"]["domain"]) for each in encodings(found.chart().to_dict(), "color") if "scale" in each
    }
    assert sides == ("c4", "dclm-baseline", "dolma1_7-no-code")
    with pytest.raises(OptionError, match=message("Differences need two sides (got 3).")):
        _ = found.differences
    assert set(found._repr_mimebundle_()[0]) >= {"text/html", "image/png"}


def test_two_sides_have_differences_as_before(recipes: JoinedStore) -> None:
    first, second = (run.store for run in recipes.runs[:2])
    found = od.compare({"a": first, "b": str(second.path)}, "parameters/rms")
    alone = od.compare(first, second, "parameters/rms")
    assert isinstance(found, CurveComparison) and isinstance(alone, SeedComparison)
    assert found.differences.equals(alone.differences) and found.pairs.equals(alone.pairs)
    assert found.notes == alone.notes and str(found) == str(alone)


def test_stores_that_share_no_step_are_still_drawn(recipes: JoinedStore) -> None:
    sides = seeded(recipes)
    moved = sides["c4"].with_columns(step=pl.col("step") + 7, tokens=pl.col("tokens") + 7)
    found = od.compare({"here": sides["c4"], "there": moved}, "bits_per_byte", domain="prose", x="step")
    assert drawn(found.chart(smoothing=0.5, pinned="there"))["line"] == 2
    assert found.notes[0].startswith("No differences: compare() needs seeds and steps that both sides have: here has ")
    params = {each["name"]: each for each in found.chart(pinned=["there"]).to_dict()["params"]}
    assert params["picked_side"]["value"] == [{"side": "there"}]


def test_what_cannot_be_compared_is_refused(recipes: JoinedStore) -> None:
    sides = seeded(recipes)
    with pytest.raises(
        OptionError, match=r"pinned must name trainings .* \(got 'dclm'\); did you mean 'dclm-baseline'\?$"
    ):
        od.compare(sides, "bits_per_byte").chart(pinned="dclm")
    with pytest.raises(OptionError, match=r"^the table of c4 must have a column 'domian'; did you mean 'domain'\?$"):
        od.compare(sides, "bits_per_byte", domian="prose")
    expected = "c4 must have rows of domain 'poetry'"
    with pytest.raises(OptionError, match=f"^{re.escape(expected)}$"):
        od.compare(sides, "bits_per_byte", domain="poetry")
    expected = "compare() needs a mapping of trainings and a quantity such as 'loss/bits_per_byte'"
    with pytest.raises(OptionError, match=message(expected)):
        od.compare(sides)
