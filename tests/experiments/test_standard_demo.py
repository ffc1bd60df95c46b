"""The demo at the size a user gets: what it must show, and that its revisions are real checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from olmo_dynamics.experiments.demo import STANDARD, run_demo
from olmo_dynamics.frames import macro_average, open_store


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
