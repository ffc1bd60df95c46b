"""Collecting into a store of version 0.1.0: it resumes, says what it lacks, and is back-filled on request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import olmo_dynamics as od
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.recorders import BUILT_IN, Observation, ParameterRecorder, lookup
from tests.listening import Notes
from tests.store.layout2 import FOURTH, MEASURED, STATES, unpack

OPTIONS = {"batch": "2x16"}
CREST = od.Quantity("crest_factor", long_name="crest factor", formula="max(abs(x)) / rms(x)", source="this test")


class NewerParameters(ParameterRecorder):
    """The parameters of a version that knows one statistic more."""

    group = replace(ParameterRecorder.group, quantities=(*ParameterRecorder.group.quantities, CREST))

    def observe(self, seen: Observation) -> None:
        super().observe(seen)
        assert seen.tensor is not None
        largest = max(abs(seen.stats.smallest), abs(seen.stats.largest))
        rms = np.sqrt(seen.stats.square_sum / seen.stats.count)
        self._records.append(self.record("crest_factor", largest / rms, tensor=seen.tensor.name))


@pytest.fixture(params=STATES)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(unpack(tmp_path))
    return Path(f"{request.param}.zarr")


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "BUILT_IN", (NewerParameters, *BUILT_IN[1:]))


def rows(store: RecordedStore, revisions: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    for revision in revisions:
        for group in store.groups:
            for name, values in store.row(group, revision).items():
                yield f"{revision}/{group}/{name}", values


def held_rows(store: RecordedStore, revisions: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """The rows of a new store, without the sizes that an older one keeps along its axis."""
    return [(key, values) for key, values in rows(store, revisions) if not key.endswith("/element_count")]


def crest_factors(revision: str) -> dict[str, float]:
    weights = load_file(Path("run") / revision / "model.safetensors")
    wide = {name: values.astype(np.float64) for name, values in weights.items()}
    return {name: float(np.abs(x).max() / np.sqrt(np.square(x).mean())) for name, x in wide.items()}


def test_its_numbers_are_those_of_this_version(store: Path) -> None:
    before = od.open_store(store)
    anew = od.collect("run", revisions=",".join(MEASURED), out="new.zarr", progress=Notes(), **OPTIONS)
    assert anew.groups == before.groups
    for (key, values), (_, expected) in zip(held_rows(anew, MEASURED), rows(before, MEASURED), strict=True):
        rtol = 1e-13 if "/parameters/" in key else 2e-5
        np.testing.assert_allclose(values, expected, rtol=rtol, atol=0, err_msg=key)


def test_it_resumes(store: Path) -> None:
    before = dict(rows(od.open_store(store), MEASURED))
    after = od.collect("run", out=store, progress=(listener := Notes()), **OPTIONS)
    assert after.done == {*MEASURED, FOURTH}
    assert listener.notes == []
    for key, values in rows(after, MEASURED):
        np.testing.assert_array_equal(values, before[key], err_msg=key)
    anew = od.collect("run", revisions=FOURTH, out="new.zarr", progress=Notes(), **OPTIONS)
    for (key, values), (_, expected) in zip(rows(after, (FOURTH,)), held_rows(anew, (FOURTH,)), strict=True):
        np.testing.assert_array_equal(values, expected, err_msg=key)


@pytest.mark.usefixtures("newer")
def test_it_says_what_it_lacks_and_goes_on_without(store: Path) -> None:
    listener = Notes()
    planned = od.plan("run", out=store, **OPTIONS)
    after = od.collect("run", out=store, progress=listener, **OPTIONS)
    assert list(planned.notes) == listener.notes
    nbytes = sum(values.nbytes for values in load_file(Path("run") / FOURTH / "model.safetensors").values())
    assert len(listener.notes) == 1
    said, cost = listener.notes[0].split("measuring it in 3 finished revisions would read ")
    assert said == f"{store} lacks parameters/crest_factor; "
    assert cost == f"{3 * nbytes / 1000:.3g} kB: --back-fill does it"
    assert after.done == {*MEASURED, FOURTH}
    assert "crest_factor" not in after.table("parameters").columns


@pytest.mark.usefixtures("newer")
def test_it_is_back_filled(store: Path) -> None:
    before = dict(rows(od.open_store(store), MEASURED))
    plan = od.plan("run", out=store, back_fill=True, **OPTIONS)
    assert plan.to_do == (*MEASURED, FOURTH)
    after = od.collect("run", out=store, back_fill=True, progress=(listener := Notes()), **OPTIONS)
    assert listener.notes == []
    table = after.table("parameters")
    for revision in (*MEASURED, FOURTH):
        found = table.filter(revision=revision)
        assert dict(zip(found["tensor"], found["crest_factor"], strict=True)) == pytest.approx(crest_factors(revision))
    for key, values in rows(after, MEASURED):
        if not key.endswith("/crest_factor"):
            np.testing.assert_array_equal(values, before[key], err_msg=key)
    again = od.collect("run", out=store, back_fill=True, progress=Notes(), **OPTIONS)
    assert again.quantity("parameters", "crest_factor").formula == CREST.formula


def test_what_a_newer_version_added_stays_readable(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(lookup, "BUILT_IN", (NewerParameters, *BUILT_IN[1:]))
        revisions = ",".join(MEASURED)
        od.collect("run", revisions=revisions, out=store, back_fill=True, progress=Notes(), **OPTIONS)
    after = od.collect("run", out=store, progress=(listener := Notes()), **OPTIONS)
    assert listener.notes == []
    factors = after.table("parameters").filter(revision=MEASURED[0])
    assert dict(zip(factors["tensor"], factors["crest_factor"], strict=True)) == pytest.approx(
        crest_factors(MEASURED[0])
    )
    assert after.table("parameters").filter(revision=FOURTH)["crest_factor"].is_nan().all()
    assert after.lacking("parameters") == (FOURTH,)
    assert od.plan("run", out=store, **OPTIONS).to_do == ()
    with monkeypatch.context() as patched:
        patched.setattr(lookup, "BUILT_IN", (NewerParameters, *BUILT_IN[1:]))
        assert od.plan("run", out=store, **OPTIONS).to_do == (FOURTH,)
        filled = od.collect("run", out=store, progress=Notes(), **OPTIONS)
    factors = filled.table("parameters").filter(revision=FOURTH)
    assert dict(zip(factors["tensor"], factors["crest_factor"], strict=True)) == pytest.approx(crest_factors(FOURTH))
