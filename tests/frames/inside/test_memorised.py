"""Memory of a batch: the table against plain NumPy, the permutation test against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import olmo_dynamics as od
from olmo_dynamics import quantities
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore, memorisation, memorisation_test
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.store import Axis, Layout
from tests.store.synthetic import ATTRIBUTES, WHEN

SEQUENCES, POSITIONS, STEPS = 4, 6, (9, 10, 11, 20)


@pytest.fixture(scope="module")
def losses() -> np.ndarray:
    """[revisions, sequences, positions]; the first four sequences are the batch of step 10."""
    drawn = np.random.default_rng(1).uniform(2, 4, (len(STEPS), 2 * SEQUENCES, POSITIONS))
    drawn[1:, :SEQUENCES] -= np.array([0.5, 0.3, 0.1])[:, np.newaxis, np.newaxis]
    return drawn.astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, losses: np.ndarray) -> RecordedStore:
    domains = np.array(["batch"] * SEQUENCES + ["twin"] * SEQUENCES)
    axes = {
        "sequence": Axis("sequence", np.arange(2 * SEQUENCES), {"domain_of_sequence": domains}),
        "position": Axis("position", np.arange(POSITIONS)),
    }
    shape = (2 * SEQUENCES, POSITIONS)
    probe = {"token_id": np.ones(shape, np.int64), "mask": np.ones(shape, bool), "domain": np.repeat([0, 1], SEQUENCES)}
    made = RecordedStore.create(
        tmp_path_factory.mktemp("memory") / "s.zarr", layout=Layout(axes, (quantities.GROUPS["tokens"],)),
        attributes=ATTRIBUTES, probe_arrays=probe,
    )  # fmt: skip
    for row, step in enumerate(STEPS):
        own = [Record(quantities.find("tokens/token_cross_entropy"), losses[row])]
        made.append(Revision(f"step{step}", step=step), own, dtype="F32", weights_sha256=str(row), collected_at=WHEN)
    return made


def test_the_table_is_that_of_numpy(store: RecordedStore, losses: np.ndarray) -> None:
    found = memorisation(store, batch="batch", twin="twin", step=10)
    means = losses[..., 1:].astype(np.float64).mean(axis=2)
    gap = means[:, :SEQUENCES] - means[:, SEQUENCES:]
    gain = gap - gap[0]
    assert found["offset"].to_list() == [-1, 0, 1, 10]
    expected = {
        "batch_loss": means[:, :SEQUENCES].mean(axis=1), "twin_loss": means[:, SEQUENCES:].mean(axis=1),
        "gap": gap.mean(axis=1), "gain": gain.mean(axis=1), "gain_se": stats.sem(gain, axis=1),
    }  # fmt: skip
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name].to_numpy(), numbers, rtol=1e-6, atol=1e-7)
    chart = od.plots.memorisation(found).to_dict()
    assert chart["title"]["text"] == ["Memory of a batch"]


@pytest.mark.parametrize("count", [8, 40])
def test_the_test_is_that_of_scipy(count: int) -> None:
    drawing = np.random.default_rng(count)
    batch, twin = drawing.normal(3, 0.2, (2, 2, count))
    batch[1] -= 0.08
    found = memorisation_test(batch, twin)
    expected = stats.permutation_test(
        ((batch[1] - twin[1]) - (batch[0] - twin[0]),), np.mean, permutation_type="samples", alternative="less",
        n_resamples=9_999, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert (found.statistic, found.sequences) == (pytest.approx(expected.statistic), count)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12 if count == 8 else 0.015)


def test_a_batch_like_its_twin_passes_as_often_as_the_level_says() -> None:
    drawing = np.random.default_rng(5)
    p_values = [memorisation_test(*drawing.normal(0, 1, (2, 2, 7))).p_value for _ in range(300)]
    assert sum(p <= 0.05 for p in p_values) <= stats.binom.ppf(0.999, 300, 0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"batch": "bacth", "twin": "twin", "step": 10},
            "'bacth' must be a domain of the probe of {path}; did you mean 'batch'?",
        ),
        ({"batch": "batch", "twin": "twin", "step": 9}, "a revision must lie before step 9 on run (got step 9 first)"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(store: RecordedStore, given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        memorisation(store, **given)  # type: ignore[arg-type]
    assert str(caught.value) == message.format(path=store.path)


def test_the_shapes_must_agree() -> None:
    with pytest.raises(OptionError) as caught:
        memorisation_test(np.zeros((2, 3)), np.zeros((2, 4)))
    assert str(caught.value) == "batch and twin must be [2, sequences] alike (got [2, 3] and [2, 4])"
