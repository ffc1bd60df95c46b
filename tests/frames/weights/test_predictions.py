"""Predictions of weight decay and of rotational equilibrium: against published numbers, a simulation, and a trained run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import olmo_dynamics as od
from olmo_dynamics.checkpoints import known_run, known_runs
from olmo_dynamics.errors import OptionError
from olmo_dynamics.experiments.demo import SMALL
from olmo_dynamics.frames.weights.predictions import TrainingRates, _equilibrium
from olmo_dynamics.progress import Progress


def test_decay_of_a_published_run() -> None:
    """Ratios to initialisation of the padding rows of OLMo 7B 0724, from its config, as measured by another program."""
    run = known_run("allenai/OLMo-7B-0724-hf")
    assert run is not None
    schedule, stage = run.schedule(None), run.stage(None)
    assert schedule is not None and stage is not None and schedule.decays_embeddings
    rates = schedule.rates(np.arange(1, 500_001), stage.tokens_per_step)
    known = TrainingRates(rates, 0, schedule.weight_decay, schedule.beta1, lambda name: True)
    steps = {
        1_000: 0.9916,
        10_000: 0.766,
        50_000: 0.232,
        100_000: 0.0536,
        200_000: 3.55e-3,
        300_000: 3.67e-4,
        500_000: 2.17e-5,
    }
    assert np.exp(known.sums(np.array(list(steps)))[1]) == pytest.approx(list(steps.values()), rel=2e-3)
    assert np.isnan(known.sums(np.array([500_001]))[0]).all()


def test_the_last_rates_of_published_runs() -> None:
    """OLMo 2 started stage 2 from these rates, which its stage-2 configs state."""
    for repo, step, rate in (
        ("allenai/OLMo-2-0425-1B", 1_907_359, 7.4487e-5),
        ("allenai/OLMo-2-1124-7B", 928_000, 6.1499e-5),
    ):
        run = known_run(repo)
        assert run is not None and run.schedule(1) is not None
        assert run.schedule(1).rates(np.array([step]), run.stage(1).tokens_per_step)[0] == pytest.approx(rate, rel=2e-4)
    held = [run.title.split()[0] for run in known_runs() if run.schedules]
    assert (len(held), held.count("Pythia"), held.count("PolyPythias")) == (9 + 10 + 5, 10, 5)


def test_equilibrium_predicts_the_walk_of_smoothed_gradients() -> None:
    """Sums of momentum over n updates, simulated: their variance is V(n) of n uncorrelated gradients."""
    beta, rng = 0.9, np.random.default_rng(0)
    gradients = rng.standard_normal((4000, 400))
    momentum = np.zeros_like(gradients)
    for place in range(1, 400):
        momentum[:, place] = beta * momentum[:, place - 1] + (1 - beta) * gradients[:, place]
    for count in (1, 5, 50):
        walked = count - 2 * beta * (1 - beta**count) / (1 - beta**2)
        assert momentum[:, -count:].sum(axis=1).var() == pytest.approx(walked, rel=0.1)
        known = TrainingRates(np.full(40_000, 1e-3), 0, 0.1, beta, lambda name: True)
        found = _equilibrium(known, np.array([20_000, 20_000 + count]))
        assert found["predicted"][1] == pytest.approx(np.sqrt(2e-4 * walked), rel=3e-2)
        assert found["updates"].to_list() == [None, count]
    early = _equilibrium(known, np.array([14_000, 14_900, 16_000]))["predicted"].to_list()
    assert early[:2] == [None, None] and _equilibrium(known, np.array([15_001, 16_000]))["predicted"][1] is not None


@pytest.fixture(scope="module")
def store(small_run: Path, tmp_path_factory: pytest.TempPathFactory):
    run = shutil.copytree(small_run, tmp_path_factory.mktemp("decay") / "demo") / "run"
    return od.collect(run, out=run.parent / "s.zarr", record="embeddings,sketches", batch="2x16", progress=Progress())


def test_rows_without_gradient_of_a_trained_run(store, tmp_path: Path) -> None:
    """The demo does not decay its embedding: rows stay as they are. With decay, they fall by the product."""
    found = od.embedding_decay(store)
    assert found["predicted"].to_list() == pytest.approx(found["measured"].to_list(), rel=1e-6)
    assert found["measured"].n_unique() == 1 and found.height == SMALL.revisions
    fork = tmp_path / "fork"
    data = [Path(store.attributes["source"]).parent / "corpus" / "train.npy"]
    od.fork(store.attributes["source"], "step9-tokens4608", data=data, out=fork, steps=8, lr=2e-2, schedule="constant",
            weight_decay=5.0, decay=("model.embed_tokens.weight",), progress=Progress())  # fmt: skip
    decayed = od.embedding_decay(
        od.collect(fork, out=tmp_path / "f.zarr", record="embeddings", batch="2x16", progress=Progress())
    )
    assert decayed["predicted"].to_list() == pytest.approx(decayed["measured"].to_list(), rel=1e-6)
    assert decayed["measured"][-1] == pytest.approx(decayed["measured"][0] * 0.9**8, rel=1e-6)


def test_no_prediction_where_its_conditions_do_not_hold(store, tmp_path: Path) -> None:
    source = store.attributes["source"]
    with pytest.raises(OptionError) as told:
        od.rotation(store)
    assert str(told.value) == f"{source} must have come to rotational equilibrium: 2 Σ η λ of at least 3"
    without = od.collect(source, out=tmp_path / "p.zarr", record="parameters", revisions="first1", progress=Progress())
    with pytest.raises(OptionError, match=r"must have the group embeddings; collect it with --record embeddings$"):
        od.embedding_decay(without)
