"""Saturation of routing against a count over sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore, churn, saturation
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Record, Status
from tests.store.synthetic import EXPERTS, LAYERS, PROBE, new_store
from tests.store.test_layout import message

MASK = PROBE["mask"]
STEPS = (0, 10, 20)


def choices(seed: int) -> np.ndarray:
    """Two different experts a token, -1 at padding and outside the blocks."""
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((LAYERS + 1, *MASK.shape, EXPERTS)), axis=-1)[..., :2].astype(np.int16)
    ranked[:, ~MASK] = -1
    ranked[0] = -1
    return ranked


@pytest.fixture
def store(tmp_path: Path) -> RecordedStore:
    found = new_store(tmp_path / "s.zarr", ("routing",))
    for step in STEPS[::-1]:
        status = np.full(LAYERS + 1, Status.MEASURED, dtype=np.uint8)
        status[0] = Status.NOT_MEASURED
        records = [Record(find("routing/chosen_experts"), choices(step)), Record(find("routing/status"), status)]
        found.append(Revision(f"step{step}", step=step), records, dtype="BF16", weights_sha256="")
    return found


@pytest.mark.parametrize(("top", "used"), [(None, 2), (1, 1)])
@pytest.mark.parametrize(("reference", "step"), [(None, 20), ("step0", 0)])
def test_the_share_of_common_experts(
    store: RecordedStore, reference: str | None, step: int, top: int | None, used: int
) -> None:
    found = saturation(store, reference, top=top)
    assert found.columns[len(LEADING) :] == [
        "layer", "saturation", "baseline", "reference", "top", "share_of_training",
    ]  # fmt: skip
    assert found.select("step", "layer").rows() == [(each, layer) for each in STEPS for layer in range(LAYERS)]
    assert set(found["baseline"]) == {used / EXPERTS}
    assert set(found["top"]) == {used}
    shares = {each: each / step if step else None for each in STEPS}
    assert dict(zip(found["step"], found["share_of_training"], strict=True)) == shares
    assert set(found["reference"]) == {f"step{step}"}
    for row in found.iter_rows(named=True):
        ours, theirs = (choices(each)[row["layer"] + 1][MASK][:, :used].tolist() for each in (row["step"], step))
        common = [len(set(a) & set(b)) / used for a, b in zip(ours, theirs, strict=True)]
        assert row["saturation"] == pytest.approx(np.mean(common))
    assert found.filter(step=step)["saturation"].to_list() == [1.0] * LAYERS


@pytest.mark.parametrize(("top", "used"), [(None, 2), (1, 1)])
def test_churn_is_the_share_that_changes_up_to_the_next_revision(
    store: RecordedStore, top: int | None, used: int
) -> None:
    found = churn(store, top=top)
    assert found.columns[len(LEADING) :] == ["layer", "churn", "baseline", "next_revision", "steps_between", "top"]
    assert found.select("step", "layer", "next_revision", "steps_between").rows() == [
        (step, layer, f"step{step + 10}", 10) for step in STEPS[:-1] for layer in range(LAYERS)
    ]
    assert set(found["baseline"]) == {1 - used / EXPERTS}
    for row in found.iter_rows(named=True):
        kept = saturation(store, row["next_revision"], top=top).filter(step=row["step"], layer=row["layer"])
        assert row["churn"] == pytest.approx(1 - kept["saturation"][0])


def test_what_cannot_be_compared_is_refused(store: RecordedStore, tmp_path: Path) -> None:
    expected = f"reference must be a revision in {store.path}, step0, step10, step20 (got step5)"
    with pytest.raises(OptionError, match=message(expected)):
        saturation(store, "step5")
    with pytest.raises(OptionError, match=message("top must be between 1 and 2, the experts per token (got 3)")):
        saturation(store, top=3)
    dense = new_store(tmp_path / "dense.zarr", ("loss",))
    expected = f"{dense.path} must have the group routing; collect a model with experts with --record routing"
    with pytest.raises(OptionError, match=message(expected)):
        saturation(dense)
    empty = new_store(tmp_path / "empty.zarr", ("routing",))
    expected = f"reference must be a revision in {empty.path}, none yet (got None)"
    with pytest.raises(OptionError, match=message(expected)):
        saturation(empty)
