"""Findings of whole stores: planted effects in plain sentences, nothing in constant data, a reason for too few revisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import olmo_dynamics as od
from olmo_dynamics import quantities
from olmo_dynamics.frames import Findings, RecordedStore, open_store
from olmo_dynamics.frames.rules.found_changes import change_points_in, jumps_in
from olmo_dynamics.frames.rules.found_structure import spikes_in
from olmo_dynamics.frames.rules.watched import NOUNS, LineRows, WatchedSeries
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.reporting.head_lines import TITLES
from tests.store.synthetic import WHEN, new_store, values

Planted = Mapping[str, Callable[[int, np.ndarray], np.ndarray]]


def written(
    path: Path, revisions: list[Revision], planted: Planted, *, sha256: Callable[[int], str] = str
) -> RecordedStore:
    """A store whose numbers are the same at every revision, but for the planted ones."""
    groups = tuple(dict.fromkeys(["loss", *(key.split("/")[0] for key in planted)]))
    store = new_store(path, groups)
    for place, revision in enumerate(revisions):
        records = []
        for key, row in values(0, groups).items():
            own = planted[key](place, row) if key in planted else row * (not key.endswith(("nan_count", "inf_count")))
            quantity = quantities.find(key)
            first = quantity.axes[0]
            if first in ("tensor", "domain"):
                labels = store.axis(first).labels.tolist()
                records += [Record(quantity, own[at], {first: label}) for at, label in enumerate(labels)]
            else:
                records.append(Record(quantity, own))
        store.append(revision, records, dtype="BF16", weights_sha256=sha256(place), collected_at=WHEN)
    return open_store(path)


def steps(count: int) -> list[Revision]:
    return [Revision(f"step{place * 100}", step=place * 100) for place in range(count)]


def outlying(place: int, row: np.ndarray) -> np.ndarray:
    found = np.where(np.isnan(row), row, 1.0)
    if place >= 4:
        found[2, 1:, 5] = 12.0
    return found


def jumping(place: int, row: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(place).normal(0, 0.002, row.shape)
    return 2 + noise + (1.5 if place >= 5 else 0.0) * np.array([0, 1])


def test_planted_effects_are_told_in_sentences(tmp_path: Path) -> None:
    planted = {"activations/feature_rms": outlying, "loss/cross_entropy": jumping}
    store = written(
        tmp_path / "s.zarr", steps(11), planted, sha256=lambda place: "ab" if place in (7, 8) else str(place)
    )
    found = od.findings(store)
    jump = next(each for each in found if each.kind == "jump")
    assert [each.sentence for each in found if each is not jump] == [
        "step700 and step800 hold the same bytes, although their steps differ.",
        "Feature 5 of the residual stream stays an outlier after blocks 0 to 1 since step 400: at step 1,000 its RMS is up to 12 "
        "times the median feature's.",
    ]
    before, after = (jumping(place, np.zeros(2))[1] for place in (4, 5))
    assert jump.sentence.startswith(
        f"The loss (domain code) rises from {before:,.4g} to {after:,.4g} between steps 400 and 500, "
    )
    assert {each.kind: (each.step, each.false_alarm_rate) for each in found} == {
        "bytes": (800, 0.0), "outlier": (400, 0.01), "jump": (500, 0.01)
    }  # fmt: skip
    assert list(found) == list(od.findings(store))  # the same each time
    assert found.table["sentence"].to_list() == [each.sentence for each in found]
    assert found._repr_html_().count("<li>") == len(str(found).splitlines()) == 3


def series(values: np.ndarray, seed: str = "") -> WatchedSeries:
    """The loss of two domains along a line."""
    steps = np.arange(len(values)) * 100
    line = LineRows(
        f"seed{seed}" if seed else "run", tuple(f"step{step}" for step in steps), steps, np.arange(len(values))
    )
    return WatchedSeries("loss/cross_entropy", "the loss", line, values, ("domain prose", "domain code"))


def test_a_change_of_pace_is_told_once_with_the_seeds_that_agree() -> None:
    at = np.arange(20)
    pace = 3 + 0.05 * np.minimum(at, 10) + 0.001 * at
    every = [
        series(pace[:, np.newaxis] + np.random.default_rng(seed).normal(0, 0.003, (20, 2)), str(seed))
        for seed in range(3)
    ]
    every.append(series(np.full((20, 2), 2.5), "3"))
    [only] = change_points_in(every)
    assert (only.kind, only.quantity) == ("change point", "loss/cross_entropy")
    assert only.step is not None and abs(only.step - 1000) <= 100
    assert only.sentence.startswith("The loss (median over 2 domains) changes pace at step ")
    assert only.sentence.endswith("; 3 of 4 seeds agree.")


def test_constant_data_give_no_finding() -> None:
    constant = [series(np.full((20, 2), 2.5))]
    assert [*change_points_in(constant), *jumps_in(constant)] == []
    assert str(Findings()) == "No findings."


def test_one_revision_is_too_few_but_for_its_bytes(tmp_path: Path) -> None:
    planted = {"parameters/nan_count": lambda place, row: np.where(np.arange(3) == 1, 2, 0)}
    found = od.findings(written(tmp_path / "s.zarr", steps(1), planted))
    assert str(found).splitlines() == [
        "1. step0 has 2 weights that are not finite, in model.layers.0.self_attn.q_proj.weight. (exact, no false alarms)",
        "Changes over training need at least 2 revisions with a step on one line (got 1).",
    ]


def test_spikes_of_a_training_curve() -> None:
    loss = 3 + np.random.default_rng(1).normal(0, 0.01, 600)
    loss[450] = 9.0
    [only] = spikes_in(pl.DataFrame({"step": np.arange(1, 601), "loss": loss}))
    assert only.sentence.startswith(
        "The training loss spikes at 1 update of 600 by the rule of OLMo-core, most at step 451: 9, "
    )
    assert only.false_alarm_rate == pytest.approx(0.005, rel=0.01)


def test_every_quantity_that_is_searched_exists_and_has_its_section() -> None:
    assert {quantities.find(key).key for key in NOUNS} == set(NOUNS)
    assert set(NOUNS) <= set(TITLES)
