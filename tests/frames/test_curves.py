"""The table of metrics on disk: whole at every moment, never behind a checkpoint, the same after an interruption."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from olmo_dynamics.errors import DiskFullError, OptionError
from olmo_dynamics.frames import metrics
from olmo_dynamics.frames import metrics as read
from olmo_dynamics.frames.curves import METRICS_FILE, MetricsTable


def feed(table: MetricsTable, *steps: int, run: str = "first") -> None:
    for step in steps:
        table({"step": step, "tokens": 64 * step, "loss": 5.0 / step if run == "first" else -1.0})


def test_it_is_written_at_each_save_and_whole(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path, step=0, save_at=(2, 4))
    for step in range(1, 6):
        feed(table, step)
        assert (tmp_path / METRICS_FILE).exists() == (step >= 2)
    assert read(tmp_path)["step"].to_list() == [1, 2, 3, 4]
    table.save()
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]
    frame = metrics(tmp_path)
    assert frame["step"].to_list() == [1, 2, 3, 4, 5] and frame["loss"].to_list() == [5.0, 2.5, 5 / 3, 1.25, 1.0]
    assert frame.schema == {"step": pl.Int64, "tokens": pl.Int64, "loss": pl.Float64}


def test_what_lies_beyond_the_step_gone_on_from_is_dropped(tmp_path: Path) -> None:
    first = MetricsTable(tmp_path, step=0)
    feed(first, 1, 2, 3, 4, 5, 6)
    first.save()
    second = MetricsTable(tmp_path, step=4)
    feed(second, 5, 6, 7, run="second")
    second.save()
    frame = metrics(tmp_path)
    assert frame["step"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert frame["loss"].to_list()[3:] == [1.25, -1.0, -1.0, -1.0]


def test_time_saves_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmo_dynamics.frames.curves.SAVE_SECONDS", -1.0)
    feed(MetricsTable(tmp_path, step=0), 1, 2)
    assert metrics(tmp_path)["step"].to_list() == [1, 2]


def test_columns_that_come_later_are_null_before(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path, step=0)
    feed(table, 1)
    table.save()
    table({"step": 2, "tokens": 128, "loss": 2.0, "eval_loss": 3.0})
    table.save()
    assert metrics(tmp_path)["eval_loss"].to_list() == [None, 3.0]


def test_held_out_losses_stand_in_a_column_a_file(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path, step=2)
    feed(table, 3, 4)
    table.save()
    (tmp_path / "evaluation.csv").write_text(
        "step,tokens,file,loss\n2,128,a,3.5\n2,128,b,4.5\n4,256,a,3.0\n4,256,b,4.0\n"
    )
    frame = metrics(tmp_path)
    assert frame.select("step", "tokens", "eval/a", "eval/b").rows() == [
        (2, 128, 3.5, 4.5),
        (3, 192, None, None),
        (4, 256, 3.0, 4.0),
    ]
    assert frame["loss"].to_list() == [None, 5 / 3, 1.25]
    again = MetricsTable(tmp_path, step=4)
    feed(again, 5)
    again.save()
    assert pl.read_parquet(tmp_path / METRICS_FILE).columns == ["step", "tokens", "loss"], "it is not copied"


def test_a_finished_run_that_is_asked_again_is_left_alone(tmp_path: Path) -> None:
    first = MetricsTable(tmp_path, step=0)
    feed(first, 1, 2)
    first.save()
    when = (tmp_path / METRICS_FILE).stat().st_mtime_ns
    MetricsTable(tmp_path, step=2).save()
    assert (tmp_path / METRICS_FILE).stat().st_mtime_ns == when


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = MetricsTable(tmp_path, step=0)
    feed(table, 1)
    table.save()

    def full(self: pl.DataFrame, path: Path) -> None:
        path.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    feed(table, 2)
    with pytest.raises(DiskFullError):
        table.save()
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]
    assert metrics(tmp_path)["step"].to_list() == [1]


def test_a_folder_without_metrics_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        metrics(tmp_path)
    assert str(caught.value) == f"the folder of a run must hold metrics.parquet; {tmp_path} does not"
