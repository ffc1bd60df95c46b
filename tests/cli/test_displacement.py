"""`olmo-dyn displacement`: the table of the library, printed or written."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import olmo_dynamics as od
from olmo_dynamics.progress import Progress
from tests.conftest import REVISIONS


@pytest.fixture(scope="module")
def store(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("displacement") / "store.zarr"
    od.collect(tiny_run, out=out, record="sketches", progress=Progress())
    return out


def test_a_store_and_a_source(run, store: Path, tiny_run: Path, tmp_path: Path) -> None:
    lines = run("displacement", str(store), "--revisions", "stage1", "--by", "layer", "--format", "json", "-q").out
    expected = od.displacement(od.open_store(store), by="layer", revisions="stage1")
    assert [json.loads(line) for line in lines.splitlines()] == list(expected.iter_rows(named=True))
    out = tmp_path / "moved.parquet"
    options = ("--exact", "--reference", "previous", "--tensors", "q_proj,k_proj", "--out", str(out))
    done = run("displacement", str(tiny_run), *options)
    exact = od.displacement(tiny_run, "previous", exact=True, tensors=["q_proj", "k_proj"])
    assert (done.code, done.out, done.err) == (0, "", f"{exact.height} rows in {out}\n")
    assert_frame_equal(pl.read_parquet(out), exact)
    table = run("displacement", str(store), "--reference", f"{store}@{REVISIONS[0]}", "--tensors", "lm_head")
    assert table.code == 0 and table.out.splitlines()[0].split()[:3] == ["revision", "tensor", "layer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{run}",), "{run} must be a store with sketches; add --exact to read the weights of a source"),
        (("{store}", "--out", "x.txt"), "a table is written to a .parquet or .csv file (got x.txt)"),
        (("{store}", "--reference", "@"), "--reference must name a store or source before @ and a revision after it (got @)"),
        (("{store}", "--tensors", "x"), "tensors must match a tensor in {store}, by its name or role (got x)"),
    ],
)  # fmt: skip
def test_one_line_and_exit_code_2(run, store: Path, tiny_run: Path, arguments: tuple[str, ...], message: str) -> None:
    words = {"run": str(tiny_run), "store": str(store)}
    outcome = run("displacement", *(each.format(**words) for each in arguments))
    assert (outcome.code, outcome.out, outcome.err) == (2, "", f"olmo-dyn: {message.format(**words)}\n")
