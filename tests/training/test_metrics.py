"""The training curve on disk: written at saves, whole, and the same after an interruption."""

import csv
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.training.metrics import COLUMNS, Metrics
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import Event, train


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def events(config: ModelConfig, recipe: Recipe, tokens: np.ndarray) -> list[Event]:
    told: list[Event] = []
    train(new_state(config, recipe), recipe, tokens, callbacks=[told.append])
    return told


def test_a_row_an_update_written_at_each_save(tmp_path: Path, events: list[Event]) -> None:
    path = tmp_path / "metrics.csv"
    metrics = Metrics.load(path, save_at=(0, 2, 4), step=0)
    for event in events[:5]:
        metrics(event)
        assert path.exists() == (event.step >= 2)
    assert list(tmp_path.iterdir()) == [path]
    table = rows(path)
    assert [row["step"] for row in table] == ["1", "2", "3", "4"]
    assert tuple(table[0]) == COLUMNS
    for row, event in zip(table, events, strict=False):
        assert int(row["tokens"]) == event.tokens_seen
        assert float(row["loss"]) == event.loss
        assert float(row["gradient_norm"]) == event.gradient_norm
        assert float(row["learning_rate"]) == event.learning_rate
    seconds = [float(row["seconds"]) for row in table]
    assert seconds == sorted(seconds)


def test_resuming_keeps_the_rows_up_to_its_step_and_the_clock(tmp_path: Path, events: list[Event]) -> None:
    path = tmp_path / "metrics.csv"
    first = Metrics.load(path, save_at=(6,), step=0)
    for event in events[:6]:
        first(event)
    written = rows(path)
    second = Metrics.load(path, save_at=(10,), step=4)
    for event in events[4:]:
        second(event)
    assert rows(path)[:4] == written[:4]
    assert [int(row["step"]) for row in rows(path)] == list(range(1, 11))
    assert float(rows(path)[4]["seconds"]) >= float(written[3]["seconds"])
