from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.errors import OptionError, StoreError
from olmo_dynamics.frames import RecordedStore, births
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities import RMS_THRESHOLDS, THRESHOLDS, find
from olmo_dynamics.quantities.declaration import Record
from tests.store.synthetic import FEATURES, LAYERS, new_store
from tests.store.test_layout import message

SIX, SIX_RMS = THRESHOLDS.index(6.0), RMS_THRESHOLDS.index(6.0)


def planted(
    store: RecordedStore, step: int, shares: dict[tuple[int, int, int], float], *, relative: bool = False
) -> None:
    """A revision in which (input, layer, feature) has a share of tokens at or above 6; all else has none."""
    name, axis, place = ("feature_fraction_above_rms", "rms_threshold", SIX_RMS) if relative else (
        "feature_fraction_above", "threshold", SIX)  # fmt: skip
    fraction = np.zeros((2, LAYERS + 1, len(store.axis(axis)), FEATURES), dtype=np.float32)
    magnitude = np.ones((2, LAYERS + 1, FEATURES), dtype=np.float32)
    for (which, layer, feature), share in shares.items():
        fraction[which, layer + 1, place, feature] = share
        magnitude[which, layer + 1, feature] = 10 + feature
    fraction[:, 0] = magnitude[:, 0] = np.nan  # nothing outside the blocks
    found = [Record(find(f"outliers/{name}"), fraction), Record(find("outliers/feature_abs_max"), magnitude)]
    revision = Revision(f"step{step}", step=step)
    store.append(revision, found, dtype="BF16", weights_sha256="")


def test_a_feature_is_born_when_it_first_meets_both_shares(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("outliers",))
    # 2 inputs x 2 layers = 4 pairs: one pair is a quarter of them.
    planted(store, 20, {(0, 0, 3): 0.5, (1, 1, 3): 0.2, (0, 1, 5): 0.06, (1, 0, 6): 0.059})
    planted(store, 10, {(1, 1, 3): 0.06})
    planted(store, 0, {(1, 1, 3): 0.05})
    found = births(store)
    assert found.columns[: len(LEADING)] == [*LEADING]
    assert found.columns[len(LEADING) :] == [
        "layer", "input", "feature", "magnitude", "fraction", "is_outlier", "first_step",
    ]  # fmt: skip
    assert len(found) == 3 * 4 * 2  # revisions, pairs, features 3 and 5
    by_feature = found.group_by("feature").agg("first_step").sort("feature")
    assert [(feature, set(steps)) for feature, steps in by_feature.rows()] == [(3, {10}), (5, {20})]
    assert found.filter("is_outlier").select("step", "feature").unique().sort("step", "feature").rows() == [
        (10, 3), (20, 3), (20, 5),
    ]  # fmt: skip
    cell = found.filter(step=20, layer=0, input="attention_input", feature=3).row(0, named=True)
    assert (cell["magnitude"], cell["fraction"]) == (13.0, 0.5)


def test_the_shares_are_the_callers(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("outliers",))
    planted(store, 0, {(0, 0, 1): 0.5, (0, 0, 2): 0.01, (1, 1, 2): 0.01})
    assert births(store, layer_share=0.5).is_empty()
    assert set(births(store, layer_share=0.5, token_share=0.01)["feature"]) == {2}
    assert births(store, 8.0).is_empty()


def test_relative_to_the_tokens_rms(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("outliers",))
    planted(store, 0, {(0, 1, 4): 0.5}, relative=True)
    assert births(store).is_empty()
    assert set(births(store, relative=True)["feature"]) == {4}


def test_births_need_the_group_and_a_recorded_threshold(filled: RecordedStore, tmp_path: Path) -> None:
    store = new_store(tmp_path / "s.zarr", ("loss",))
    expected = f"{store.path} must have the group outliers; collect with --record outliers"
    with pytest.raises(OptionError, match=message(expected)):
        births(store)
    with pytest.raises(StoreError, match=re.escape("axis threshold has no 5.5; it has 1.0, 2.0, 3.0, 4.0, … 128.0")):
        births(filled, 5.5)
