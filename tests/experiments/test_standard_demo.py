"""The demo at the size a user gets: what it must show, and that its revisions are real checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from polars.testing import assert_frame_equal
from transformers import AutoModelForCausalLM

from olmo_dynamics.experiments.demo import SMALL, STANDARD, run_demo
from olmo_dynamics.frames import forest, macro_average, open_store


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_and_every_number_is_where_theory_puts_it(tmp_path: Path) -> None:
    demo = run_demo(tmp_path, quiet=True)
    store = open_store(demo.store)
    losses = store.table("loss").sort("step")
    average = macro_average(losses).sort("step")["cross_entropy"]
    assert average[0] == pytest.approx(math.log(STANDARD.config.vocab_size), abs=0.1)
    assert average[-1] < 6.3 < average[0]
    assert losses.filter(domain="code")["cross_entropy"][-1] < 5.2
    rows = store.table("embeddings").filter(embedding="model.embed_tokens.weight").sort("step")
    assert rows["padding_rms"].n_unique() == 1, "rows that no token reaches keep their first bits"
    assert rows["row_rms"][-1] > 2 * rows["row_rms"][0]
    last = sorted(demo.run.glob("step*"), key=lambda path: path.stat().st_mtime)[-1]
    model = AutoModelForCausalLM.from_pretrained(last, dtype=torch.float32)
    assert np.isfinite(model(torch.arange(16)[None]).logits.detach().numpy()).all()
    assert demo.report.stat().st_size > 500_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_demo_that_was_moved_goes_on_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    made = run_demo("study/demo", size=SMALL, quiet=True)
    before = open_store(made.store).table("parameters")
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "first" / "study").rename(tmp_path / "elsewhere" / "renamed")
    monkeypatch.chdir(tmp_path / "elsewhere" / "deep")
    moved = run_demo("../renamed/demo", size=SMALL, quiet=True)
    assert_frame_equal(open_store(moved.store).table("parameters"), before, check_exact=True)
    found = forest(moved.run, moved.fork, stores=[moved.store])
    assert found.parents == {"fork": "run"} and set(found.open_stores()) == {"run", "fork"}
    assert "A run and its forks" in moved.report.read_text()
