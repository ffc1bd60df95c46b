"""The demo's own training against counts of its training text: unigrams come first, and are left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import olmo_dynamics as od
from olmo_dynamics.experiments.demo import STANDARD, pretrain
from olmo_dynamics.progress import Progress


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_divergence_from_unigrams_dips_and_rises_and_that_from_bigrams_falls_on(tmp_path: Path) -> None:
    run = pretrain(tmp_path, size=STANDARD)
    counts = tmp_path / "corpus" / "train.npy"
    store = od.collect(run, out=tmp_path / "s.zarr", record="ngram", counts=counts, progress=Progress())
    table = store.table("ngram").sort("step")
    unigram, bigram = (table.filter(pl.col("order") == order) for order in (1, 2))
    kl, steps = unigram["kl"].to_numpy(), unigram["step"].to_numpy()
    dip = int(kl.argmin())
    assert 10 < steps[dip] < 90, "unigrams are learned within the first tenth"
    assert kl[dip] < 0.3 < 1.5 < kl[0] and kl[-1] > 1.2
    assert (np.diff(kl[: dip + 1]) < 0).all(), "it falls to the dip"
    later = bigram["kl"].to_numpy()
    assert later.argmin() > dip, "bigrams come after unigrams"
    assert later[0] > 4 and later[-1] < 2.3
    samples = bigram["cross_entropy"].to_numpy()
    assert (samples > bigram["sample_entropy"].to_numpy()).all(), "no model beats the one that the samples are of"
    assert samples[0] == pytest.approx(np.log(STANDARD.config.vocab_size), abs=0.15)
    losses = unigram["cross_entropy"].to_numpy()
    assert losses.min() < 7 < 8 < losses[-1]
    assert bigram["uncounted_share"][0] < 0.01
