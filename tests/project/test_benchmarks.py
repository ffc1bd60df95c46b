"""The benchmarks run: every method arrives at the same number, on a shape that takes moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import p1_parameters, p2_collect, p5_overhead
from benchmarks.checkpoint import make_checkpoint
from benchmarks.turns import take_turns


@pytest.mark.slow
def test_methods_agree(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", tmp_path)
    turns = take_turns("benchmarks.p1_parameters", p1_parameters.METHODS, arguments=[str(folder)], repeats=1)
    norms = [turns[method][0].result for method in p1_parameters.METHODS[:3]]
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-6)
    turns = take_turns("benchmarks.p2_collect", p2_collect.METHODS, arguments=[str(folder)], repeats=1)
    losses = [turns[method][0].result for method in p2_collect.METHODS[:2]]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    turns = take_turns("benchmarks.p5_overhead", p5_overhead.METHODS, arguments=[str(folder)], repeats=1)
    assert turns[p5_overhead.METHODS[0]][0].result == turns[p5_overhead.METHODS[1]][0].result
