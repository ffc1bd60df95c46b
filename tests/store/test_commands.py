"""The commands over a store whose only group is a user's own."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from olmo_dynamics.cli import cli
from olmo_dynamics.frames import open_store
from tests.store.silent import add_silent, new_silent_store
from tests.store.synthetic import REVISIONS


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = new_silent_store(tmp_path_factory.mktemp("commands") / "s.zarr")
    for seed in (0, 1):
        add_silent(store, REVISIONS[seed], seed)
    return store.path


def run(*words: object) -> str:
    outcome = CliRunner().invoke(cli, [str(word) for word in words])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_show_prints_what_a_group_is(path: Path) -> None:
    assert "group silent           3 quantities by revision, layer. Features that stay near zero." in run("show", path)
    facts = json.loads(run("show", path, "--format", "json"))
    assert facts["quantities"] == {"silent": ["silent_share", "silent_by_bin", "status"]}
    assert facts["introductions"] == {"silent": "Features that stay near zero."}
    assert facts["lacking"] == {}


def test_export_writes_its_tables(path: Path, tmp_path: Path) -> None:
    for name in ("silent", "silent.silent_by_bin"):
        run("export", path, name, "--out", tmp_path / f"{name}.parquet")
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(open_store(path).table(name))


def test_report_writes_its_page(path: Path, tmp_path: Path) -> None:
    run("report", path, "--out", tmp_path / "page.html")
    assert ">Share of silent features by depth</h3>" in (tmp_path / "page.html").read_text(encoding="utf-8")
