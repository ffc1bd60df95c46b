"""Rows of metrics: what a sink is told of each update, and boards that others keep."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.loggers import TensorBoard, WandB
from olmo_dynamics.training.metrics import Metrics, Row, peak_memory
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import Event, train


@pytest.fixture
def told(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> tuple[list[Event], list[Row]]:
    """The events of ten updates, and the rows made of them."""
    events: list[Event] = []
    rows: list[Row] = []
    train(new_state(config, recipe), recipe, tokens, callbacks=[events.append, Metrics([rows.append])])
    return events, rows


def test_a_row_an_update(told: tuple[list[Event], list[Row]]) -> None:
    events, rows = told
    assert [row["step"] for row in rows] == list(range(1, 11))
    for event, row in zip(events, rows, strict=True):
        assert (row["tokens"], row["loss"], row["gradient_norm"], row["learning_rate"]) == (
            event.tokens_seen,
            event.loss,
            event.gradient_norm,
            event.learning_rate,
        )
    assert events[-1].state.loss == events[-1].loss


def test_the_rate_counts_only_what_was_seen_since(
    told: tuple[list[Event], list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    events, _ = told
    clock = iter([10.0, 12.0, 12.5])
    monkeypatch.setattr("olmo_dynamics.training.metrics.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    rows: list[Row] = []
    resumed = Metrics([rows.append], tokens_seen=events[3].tokens_seen, _since=10.0 + 0 * next(clock))
    for event in events[4:6]:
        resumed(event)
    assert [row["tokens_per_second"] for row in rows] == [64 / 2.0, 64 / 0.5]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's own count is Linux's")
def test_memory_is_the_most_this_process_ever_held() -> None:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    assert peak_memory(torch.device("cpu")) == pytest.approx(int(line.split()[1]) * 1024, rel=0.02)


class Recorder:
    """Stands where a board's own writer would."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.begun, self.said, self.closed = (arguments, named), [], False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.said.append((name, value, step))

    def log(self, row: dict[str, float], *, step: int) -> None:
        self.said.append((row, step))

    def close(self) -> None:
        self.closed = True

    finish = close


ROW: Row = {"step": 3, "tokens": 192, "loss": 2.5}


def test_tensorboard_gets_a_scalar_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    board = TensorBoard("runs/a")
    board(ROW)
    board.close()
    writer = board._writer
    assert writer.begun == (("runs/a",), {}) and writer.closed
    assert writer.said == [("tokens", 192, 3), ("loss", 2.5, 3)]


def test_wandb_gets_a_row_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("wandb")
    module.init = Recorder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    board = WandB("olmo", {"steps": 10})
    board(ROW)
    board.close()
    run = board._run
    assert run.begun == ((), {"project": "olmo", "config": {"steps": 10}}) and run.closed
    assert run.said == [({"tokens": 192, "loss": 2.5}, 3)]


@pytest.mark.parametrize(
    ("module", "make", "message"),
    [
        (
            "torch.utils.tensorboard",
            lambda: TensorBoard("a"),
            "TensorBoard is not installed: pip install 'olmo-dynamics[tensorboard]'",
        ),
        ("wandb", lambda: WandB("a", {}), "Weights & Biases is not installed: pip install 'olmo-dynamics[wandb]'"),
    ],
)
def test_a_logger_that_is_not_installed_is_one_line(
    module: str, make: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionError) as caught:
        make()
    assert str(caught.value) == message
