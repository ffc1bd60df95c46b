"""When compiling pays, that it changes rounding only, and what happens where it cannot work."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from olmo_dynamics.model import Experts, ModelConfig, build_model
from olmo_dynamics.training.compile import is_worth_compiling, try_compile
from olmo_dynamics.training.execution import run_block
from olmo_dynamics.training.recipe import Recipe

TWO_RUNS = """
import logging, sys
import numpy as np
from dataclasses import replace
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import train
logging.basicConfig(level=logging.WARNING, format="%(message)s")
config = ModelConfig(hidden_size=24, layers=3, heads=4, kv_heads=2, head_dim=6, intermediate_size=32, vocab_size=320,
                     max_positions=32, norm_eps=1e-6, rope_theta=5e5, model_type="olmo3", sliding_window=5,
                     sliding_layers=(0, 1))
recipe = Recipe(steps=4, sequences_per_step=4, sequence_length=16, activation_checkpointing=True)
for changes in ({}, {"compile": True}, {"compile": True, "workers": 2}):
    losses = []
    each = replace(recipe, **changes)
    train(new_state(config, each), each, np.arange(2000) % 300, callbacks=[lambda event: losses.append(event.loss)])
    print(*losses)
if "torch._dynamo" in sys.modules:
    print(sys.modules["torch._dynamo"].utils.counters["stats"]["unique_graphs"], file=sys.stderr)
"""


def two_runs(tmp_path: Path, **environment: str) -> tuple[list[list[float]], str]:
    """Losses of a run, of one compiled, and of one compiled with two workers; and what was noted. Apart from this process,
    in which shapes are checked at every call.
    """
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), **environment}
    done = subprocess.run([sys.executable, "-c", TWO_RUNS], check=True, capture_output=True, text=True, env=environment)
    return [[float(loss) for loss in line.split()] for line in done.stdout.splitlines()], done.stderr


@pytest.mark.slow
def test_compiled_blocks_change_rounding_only(tmp_path: Path) -> None:
    (plain, alone, shared), notes = two_runs(tmp_path)
    assert alone == pytest.approx(plain, rel=1e-5) and shared == pytest.approx(plain, rel=1e-5)
    assert "recompile_limit" not in notes
    assert 3 <= int(notes.splitlines()[-1]) <= 6  # the trial, and a block with a window and one without; in two runs


def test_without_a_compiler_training_goes_on_with_a_note(tmp_path: Path) -> None:
    (plain, alone, shared), notes = two_runs(tmp_path, CXX="/no/compiler")
    assert alone == plain and shared == pytest.approx(plain, rel=1e-5)
    note = "torch.compile needs a working compiler (got "
    assert notes.count(note) == 2 and notes.count(": training continues without torch.compile\n") == 2


def test_long_runs_of_large_models_are_compiled_and_short_ones_are_not(config: ModelConfig) -> None:
    shape = {"hidden_size": 256, "layers": 8, "head_dim": 64, "intermediate_size": 1024, "vocab_size": 8192}
    model = build_model(replace(config, **shape, kv_heads=4), device="cpu")  # 12.6 M parameters
    assert not is_worth_compiling(model, 100 * 4096) and is_worth_compiling(model, 1000 * 4096)
    recipe = Recipe(steps=1040, save_at=(40, 50, 1040))
    assert recipe.tokens_in_run == 1000 * recipe.tokens_per_step  # however much of it is still to come


def test_experts_are_not_compiled(config: ModelConfig, caplog: pytest.LogCaptureFixture) -> None:
    model = build_model(replace(config, model_type="olmoe", experts=Experts(count=4, per_token=2)), device="cpu")
    assert not is_worth_compiling(model, 1 << 50)
    assert try_compile(run_block, model) is None
    assert caplog.messages == ["a model with experts cannot be compiled: training continues without torch.compile"]
