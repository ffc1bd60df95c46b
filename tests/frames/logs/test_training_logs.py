"""Logs of trainers: the real files as counted apart, each form, conflicts, refusals, and the join to a store."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import polars as pl
import pytest

from olmo_dynamics.checkpoints import known_run, parse_revision
from olmo_dynamics.checkpoints.catalog.positions import in_training_order
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore, TrainingLogs, join_logs, read_logs

LEADING = ["run", "step", "tokens", "position_step", "position_tokens"]
CONSOLE = """\
[2024-04-17 09:42:20] INFO     [olmo.train:500, rank=0] Starting training...
[2024-04-17 09:42:26] INFO     [olmo.train:816, rank=0] [step=1/739328,epoch=0]
    optim/total_grad_norm=1.199
    train/CrossEntropyLoss=11.25
    train/Perplexity=76,631
    throughput/total_tokens=4,194,304
[2024-04-17 09:42:38] INFO     [olmo.train:816, rank=0] [step=2/739328,epoch=0]
    train/CrossEntropyLoss=10.73
    throughput/total_tokens=8,388,608
    throughput/device/tokens_per_second=45,538
[2024-04-17 09:42:39] INFO     Saving checkpoint...
    kind=unsharded
"""
STATE = {
    "global_step": 20,
    "log_history": [
        {"epoch": 0.1, "grad_norm": 2.5, "learning_rate": 5e-05, "loss": 3.25, "step": 10},
        {"epoch": 0.2, "eval_loss": 3.0, "eval_runtime": 1.5, "step": 20},
        {"epoch": 0.2, "train_loss": 3.2, "total_flos": 12.0, "step": 20},
    ],
}


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(logs: TrainingLogs, *columns: str) -> list[tuple[object, ...]]:
    return logs.table.select(*columns).rows()


def test_the_metrics_of_olmo_are_those_of_the_file(shared: Path) -> None:
    path = shared / "data" / "native" / "olmo" / "tiny-olmo2" / "metrics.json"
    logs = read_logs(path)
    given = json.loads(path.read_text())
    assert rows(logs, "step", "loss", "gradient_norm", "z_loss") == [
        (row["step"], row["cross_entropy"], row["total_grad_norm"], row["z_loss"]) for row in given
    ]
    assert logs.units == {"gradient_norm": "nat/weight unit", "loss": "nat/token", "z_loss": "nat²"}
    assert logs.published == {"gradient_norm": ("total_grad_norm",), "loss": ("cross_entropy",), "z_loss": ("z_loss",)}
    assert logs.table.columns == [*LEADING, "gradient_norm", "loss", "z_loss"] and logs.conflicts.is_empty()


def test_the_metrics_of_olmo_core_are_those_of_the_file(shared: Path) -> None:
    path = shared / "data" / "native" / "olmo_core" / "tiny-olmo3" / "metrics.jsonl"
    given = [json.loads(line) for line in path.read_text().splitlines() if "train/CE loss" in line]
    logs = read_logs(path)
    assert rows(logs, "step", "loss", "gradient_norm", "learning_rate", "optim/LR (group 1)") == [
        (row["step"], row["train/CE loss"], row["optim/total grad norm"], row["optim/LR (group 0)"], row["optim/LR (group 1)"])
        for row in given
    ]  # fmt: skip
    assert logs.units["train/Z loss unscaled"] == "as logged" and logs.conflicts.is_empty()


def test_the_fine_tuning_of_olmoe_is_that_of_the_file(shared: Path) -> None:
    path = shared / "data" / "olmoe_logs" / "sft_log.csv"
    with path.open(newline="") as file:
        given = [(int(row["step"]), float(row["lr"]), float(row["loss"])) for row in csv.DictReader(file)]
    logs = read_logs(path, run="allenai/OLMoE-1B-7B-0924-SFT")
    assert len(given) == 9_500 and rows(logs, "step", "learning_rate", "loss") == given
    assert logs.units == {"learning_rate": "1", "loss": "as logged"}
    assert logs.table["tokens"].null_count() == 9_500  # its batch is not known


def test_the_console_of_olmo_and_of_open_instruct(tmp_path: Path) -> None:
    logs = read_logs(written(tmp_path, "run.log", CONSOLE))
    shown = ("step", "tokens", "loss", "perplexity", "gradient_norm", "tokens_per_second_per_device")
    assert rows(logs, *shown) == [(1, 4194304, 11.25, 76631, 1.199, None), (2, 8388608, 10.73, None, None, 45538)]
    line = "2024-08-02T21:18:46.9Z   Step: {}, LR: {}, Loss: {}\n"
    tuned = read_logs(
        written(tmp_path, "sft.log", line.format(1, 7e-08, 810.4) + "noise\n" + line.format(2, 1e-07, 900.0))
    )
    assert rows(tuned, "step", "learning_rate", "loss") == [(1, 7e-08, 810.4), (2, 1e-07, 900.0)]


def test_a_trainer_state_of_transformers(tmp_path: Path) -> None:
    logs = read_logs(written(tmp_path, "trainer_state.json", json.dumps(STATE)))
    assert rows(logs, "step", "loss", "gradient_norm", "learning_rate", "eval_loss", "train_loss", "epoch") == [
        (10, 3.25, 2.5, 5e-05, None, None, 0.1), (20, None, None, None, 3.0, 3.2, 0.2),
    ]  # fmt: skip
    assert logs.units["eval_loss"] == "as logged"


@pytest.mark.slow
def test_a_trainer_state_that_transformers_wrote(tmp_path: Path) -> None:
    from transformers.trainer_callback import TrainerState

    history = STATE["log_history"]
    assert isinstance(history, list)
    TrainerState(global_step=20, log_history=history).save_to_json(str(tmp_path / "trainer_state.json"))
    logs = read_logs(tmp_path / "trainer_state.json")
    assert rows(logs, "step", "loss", "eval_loss") == [(10, 3.25, None), (20, None, 3.0)]


def test_exports_of_weights_and_biases(tmp_path: Path) -> None:
    one = written(
        tmp_path, "one.csv", "_step,_runtime,train/loss,train/global_step,note\n0,1.5,3.5,10,a\n1,2.5,,20,b\n"
    )
    assert rows(read_logs(one), "step", "loss") == [(10, 3.5)]
    head = '"Step","a-1 - train/CE loss","a-1 - train/CE loss__MIN","b - train/CE loss","b - optim/LR (group 0)"\n'
    several = read_logs(written(tmp_path, "several.csv", head + "5,2.0,1.0,2.5,0.1\n6,1.5,1.5,,0.2\n"), run="other")
    assert rows(several, "run", "step", "loss", "learning_rate") == [
        ("a-1", 5, 2.0, None), ("a-1", 6, 1.5, None), ("b", 5, 2.5, 0.1), ("b", 6, None, 0.2),
    ]  # fmt: skip


def test_values_that_differ_are_named_and_not_averaged(tmp_path: Path) -> None:
    first = written(tmp_path, "first.jsonl", '{"step": 1, "loss": 2.0, "lr": 0.1}\n{"step": 2, "loss": 1.5}\n')
    again = written(tmp_path, "again.jsonl", '{"step": 2, "loss": 1.75, "lr": 0.2}\n{"step": 2, "loss": 1.75}\n')
    logs = read_logs(first, again)
    assert rows(logs, "step", "loss", "learning_rate") == [(1, 2.0, 0.1), (2, None, 0.2)]
    assert logs.conflicts.rows() == [(None, 2, "loss", [1.5, 1.75])]


def test_of_two_names_for_one_metric_the_better_known_is_plain(tmp_path: Path) -> None:
    logs = read_logs(written(tmp_path, "a.jsonl", '{"step": 1, "loss": 9.0, "train/CE loss": 2.0}\n'))
    assert logs.table.columns[5:] == ["loss (as published)", "loss"] and rows(logs, "loss") == [(2.0,)]
    assert logs.published == {"loss (as published)": ("loss",), "loss": ("train/CE loss",)}


def test_a_known_run_tells_tokens_and_positions(tmp_path: Path) -> None:
    source, path = "allenai/OLMo-2-0425-1B", written(tmp_path, "a.jsonl", '{"step": 1000, "loss": 2.0}\n')
    listed = in_training_order([parse_revision("stage2-ingredient1-step1000-tokens3B")], known_run(source))[0]
    found = read_logs(path, run=source, stage=2).table.select(LEADING).row(0)
    assert found == (source, 1000, 1000 * 512 * 4096, listed.position_step, listed.position_tokens)
    assert found[3:] == (1908359, 4002118893568)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "[1, 2]", "AttributeError: 'int' object has no attribute 'get'"),
        ("a.json", "{}", "KeyError: 'log_history'"),
        ("a.jsonl", '{"step": 1.5, "loss": 2}', "ValueError: a step must be a whole number of at least 0, got 1.5"),
        ("a.csv", "time,loss\n1,2\n", "ValueError: no column train/global_step, _step, Step, step"),
        ("a.csv", "step,loss\n1.5,2\n", "ValueError: step holds a step that is no whole number of at least 0"),
        ("a.log", "no metrics at all\n", ""),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = written(tmp_path, name, text)
    forms = "metrics of OLMo or OLMo-core (.json, .jsonl), trainer_state.json of transformers, a CSV export, or a console log"
    with pytest.raises(OptionError) as caught:
        read_logs(path)
    assert str(caught.value) == f"{path} must hold {forms} ({said or 'got no number with a step'})"


def test_no_file_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^read_logs\(\) needs at least one file \(got none\)$"):
        read_logs()
    with pytest.raises(OptionError, match=r"^a file of logs must exist \(got absent\.json\)$"):
        read_logs("absent.json")


def test_logs_join_to_the_revisions_of_their_step(filled: RecordedStore, tmp_path: Path) -> None:
    revisions, source = filled.table("revisions"), str(filled.attributes["source"])
    steps = revisions["step"].drop_nulls().unique().sort().to_list()
    text = "".join(f'{{"step": {step}, "lr": {step / 7}}}\n' for step in [*steps, 10**9])
    joined = join_logs(filled, read_logs(written(tmp_path, "a.jsonl", text), run=source))
    alone = revisions["step"].is_unique().to_list()
    expected = [
        step / 7 if one and step is not None else None for step, one in zip(revisions["step"], alone, strict=True)
    ]
    assert joined["learning_rate"].to_list() == expected
    assert joined.drop("learning_rate").equals(revisions)
    other = read_logs(tmp_path / "a.jsonl", run="someone/else")
    with pytest.raises(OptionError) as caught:
        join_logs(filled, other)
    assert str(caught.value) == (
        f"the logs must be of one run, that of {source} (got someone/else); give read_logs() run={source!r}"
    )
    assert pl.Series(alone).any()
