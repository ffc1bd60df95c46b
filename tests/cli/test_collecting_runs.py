"""`olmo-dyn collect` with several sources, and the commands that read what it made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Outcome
from tests.runs import write_run


def test_several_sources_are_planned_collected_shown_and_exported(run: Callable[..., Outcome], tmp_path: Path) -> None:
    sources = [str(write_run(tmp_path / f"tiny-seed{seed}", ("step0", "step10"))) for seed in (1, 2)]
    out = str(tmp_path / "runs")
    given = [*sources, "--out", out, "--record", "parameters", "--quiet", "--format", "json"]
    planned = json.loads(run("collect", *given, "--dry-run").out)
    assert (planned["revisions"], planned["done"], planned["failed"]) == (4, 0, {})
    assert planned["bytes"] == sum(each["bytes"] for each in planned["runs"].values()) and not Path(out).exists()
    made = run("collect", *given)
    assert (made.code, json.loads(made.out)) == (0, {"store": out, "runs": 2, "revisions": 4, "missing": 0})
    shown = json.loads(run("show", out, "--format", "json").out)
    assert list(shown["runs"]) == ["tiny-seed1", "tiny-seed2"] and shown["left_out"] == {}
    assert run("show", out, "--check", "--quiet").code == 0
    assert run("export", out, "parameters", "--out", str(tmp_path / "p.csv"), "--quiet").code == 0
    assert (tmp_path / "p.csv").read_text().startswith("revision,stage,ingredient,step,tokens,seed,line")
    bad = run("collect", *sources, str(tmp_path / "absent"), "--out", out, "--record", "parameters", "--quiet")
    assert bad.code == 2 and bad.err.count("\n") == 1 and "1 run of 3 could not be measured wholly" in bad.err
