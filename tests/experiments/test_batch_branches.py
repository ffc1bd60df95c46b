"""Branches of a tiny run at several batch sizes: their recipe, their losses, and how they resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import critical_batch_sizes
from olmo_dynamics.progress import Progress

PARENT = "step9-tokens4608"  # 8 sequences of 64 tokens per step
CURVE = ("step", "tokens", "loss", "gradient_norm", "learning_rate")


def branched(small_run: Path, out: Path, **options: object) -> pl.DataFrame:
    corpus = small_run / "corpus" / "train.npy"
    given = {"tokens": 2048, "multipliers": (0.5, 1, 2), "progress": Progress(), **options}
    return od.critical_batch(small_run / "run", PARENT, data=[corpus], out=out, **given)


def test_branches_of_one_revision(small_run: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held.npy"
    np.save(held_out, np.load(small_run / "corpus" / "train.npy").reshape(-1)[-512:])
    table = branched(small_run, tmp_path / "cbs", held_out=[held_out])
    assert table.select("revision", "step", "tokens", "multiplier", "sequences", "updates", "batch_tokens").rows() == [
        (PARENT, 9, 4608, 0.5, 4, 8, 256), (PARENT, 9, 4608, 1.0, 8, 4, 512), (PARENT, 9, 4608, 2.0, 16, 2, 1024),
    ]  # fmt: skip
    assert_frame_equal(pl.read_parquet(tmp_path / "cbs" / "branches.parquet"), table)
    rates = table["learning_rate"].to_numpy()
    np.testing.assert_allclose(rates / rates[1], np.sqrt([0.5, 1, 2]), rtol=1e-6)

    for row in table.iter_rows(named=True):
        curve = od.metrics(row["folder"])
        losses = curve["loss"].drop_nulls().to_numpy()
        weights = 0.5 ** np.r_[len(losses) - 1, np.arange(len(losses) - 1, 0, -1)]
        assert row["training_loss"] == pytest.approx(float(weights @ losses))
        [column] = [name for name in curve.columns if name.startswith("eval/")]
        assert row["loss"] == row["held_out_loss"] == curve[column].to_list()[-1]
    own = od.metrics(small_run / "run").filter(pl.col("step").is_between(10, 13)).select(CURVE)
    as_parent = od.metrics(table["folder"][1]).filter(pl.col("loss").is_not_null()).select(CURVE)
    assert_frame_equal(as_parent, own, check_exact=True)  # k = 1 is what the parent did
    assert critical_batch_sizes(table)["low"][0] in (256, 512, 1024)

    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cbs").rglob("*.safetensors")}
    shutil.rmtree(tmp_path / "cbs" / PARENT / "k2")
    again = branched(small_run, tmp_path / "cbs", held_out=[held_out])
    assert_frame_equal(again, table, check_exact=True)
    kept = [path for path in stamps if "k2" not in path.parts]
    assert len(kept) >= 2 and all(path.stat().st_mtime_ns == stamps[path] for path in kept)


def test_a_given_rate_is_that_of_the_given_batch(small_run: Path, tmp_path: Path) -> None:
    options = {
        "batch": "4x32",
        "lr": 1e-3,
        "schedule": "constant",
        "order": "shuffled",
        "multipliers": (1, 4),
        "tokens": 512,
    }
    table = branched(small_run, tmp_path / "cbs", **options)
    assert table.select("sequences", "sequence_length", "updates").rows() == [(4, 32, 4), (16, 32, 1)]
    assert table["learning_rate"].to_list() == pytest.approx([1e-3, 2e-3])
    assert table["loss_kind"].unique().to_list() == ["training, smoothed"]


def test_errors_come_before_any_training(small_run: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"multipliers": (0.3,)}, rf"^multipliers must give whole batches of the 8 sequences of {PARENT} \(got 0\.3, "),
        ({"tokens": 0}, r"^tokens must be at least 1 \(got 0\)$"),
        ({"batch_lr": "keep"}, r"^critical_batch\(\) decides batch_lr itself; leave it out, or fork with od\.fork$"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            branched(small_run, tmp_path / "cbs", **options)
    assert not (tmp_path / "cbs").exists()
