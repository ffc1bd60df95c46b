"""The benchmarks run on a shape that takes moments, and every method computes the same number."""

from __future__ import annotations

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import against, collect, overhead, parameters
from benchmarks.checkpoint import make_checkpoint
from benchmarks.claims import Claim, print_claims
from benchmarks.interleave import interleave, print_table
from tests.conftest import ROOT

FILES = sorted((ROOT / "benchmarks").glob("*.py"))


def is_there(module: ModuleType, name: str) -> bool:
    """True if a module has a name, or a module of that name."""
    return hasattr(module, name) or find_spec(f"{module.__name__}.{name}") is not None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_name_that_is_imported_exists(path: Path) -> None:
    """Imports within functions too, which no quick test reaches."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("olmo_dynamics"):
            module = importlib.import_module(str(node.module))
            absent = [each.name for each in node.names if not is_there(module, each.name)]
            assert not absent, f"{path.name}:{node.lineno}: {node.module} has no {', '.join(absent)}"


@pytest.mark.slow
def test_methods_agree(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", tmp_path)
    timings = interleave("benchmarks.parameters", parameters.METHODS, arguments=[str(folder)], repeats=1)
    norms = [timings[method][0].result for method in parameters.METHODS[:3]]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-6)
    timings = interleave("benchmarks.collect", collect.METHODS, arguments=[str(folder)], repeats=1)
    losses = [timings[method][0].result for method in collect.METHODS[:2]]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    timings = interleave("benchmarks.overhead", overhead.METHODS, arguments=[str(folder)], repeats=1)
    assert timings[overhead.METHODS[0]][0].result == timings[overhead.METHODS[1]][0].result


@pytest.mark.slow
def test_a_checkout_is_compared_with_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "CACHE", tmp_path)
    folder = make_checkpoint("tiny", tmp_path)
    [work] = against.WORKS["parameters"]
    [pair] = against.compare(work, against.Sides(ROOT, ROOT), folder, repeats=1)
    assert all(seconds > 0 for seconds in (*pair.cpu, *pair.wall))


def test_a_turn_that_crashes_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "crashing.py").write_text(
        "import json, os, sys\n"
        "if sys.argv[1] == 'aborts':\n    os.abort()\n"
        "print(json.dumps({'seconds': 1.0, 'peak_bytes': 0, 'result': 2.0}))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    timings = interleave("crashing", ["works", "aborts"], arguments=[], repeats=2)
    assert [timing.result for timing in timings["works"]] == [2.0, 2.0]
    assert timings["aborts"] == []
    assert "aborts was ended by SIGABRT" in capsys.readouterr().err
    print_table("two methods", timings, reference="works")
    assert "aborts                             crashed in every turn" in capsys.readouterr().out


def test_a_claim_is_met_only_by_a_figure_within_its_target(capsys) -> None:
    print_claims(
        [
            Claim("share", 0.61, 0.6, "%", at_least=True),
            Claim("time", 1.06, 1.05),
            Claim("memory", 733.4, 700, "MB"),
            Claim("crashed", float("nan"), 0.5, "s"),
        ]
    )
    rows = [line.split(maxsplit=1)[1].split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [
        ["61.0%", "at", "least", "60.0%", "met"],
        ["1.06", "at", "most", "1.05", "NOT", "MET"],
        ["733", "MB", "at", "most", "700", "MB", "NOT", "MET"],
        ["not", "measured", "at", "most", "0.5", "s", "NOT", "MET"],
    ]


def test_the_interval_of_a_ratio_covers_it() -> None:
    noise = np.random.default_rng(0).normal(1, 0.01, (9, 2))
    found = against.ratio_of_medians(noise * [1.1, 1.0])
    assert found.low < 1.1 < found.high
    assert found.low > against.TARGET
    assert found.high - found.low < 0.05
