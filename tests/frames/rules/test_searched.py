"""What a search for findings reads: logs given to it, and no more bytes than it may."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import Findings, RecordedStore
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.rules import search_cost
from olmo_dynamics.names import Revision
from tests.cli.conftest import Outcome
from tests.cli.conftest import run as command  # noqa: F401  # a fixture
from tests.store.synthetic import FEATURES, LAYERS, add, new_store

SOURCE = "org/tiny"
STEPS = 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    """Twelve revisions with losses and activations."""
    found = new_store(tmp_path_factory.mktemp("searched") / "s.zarr", ("loss", "activations"))
    for step in range(STEPS):
        add(found, Revision(f"step{step}", step=step), 0)
    return found


def logged(path: Path, *, every: int, planted: int = 450, run: str | None = None) -> Path:
    """A trainer's log, with a loss of 9 at one of 600 logged steps."""
    loss = 3 + np.random.default_rng(1).normal(0, 0.01, 600)
    loss[planted] = 9.0
    if run is not None:
        lines = [f"Step,{run} - train/loss", *(f"{every * (at + 1)},{value}" for at, value in enumerate(loss))]
        path.write_text("\n".join(lines))
    else:
        history = [{"step": every * (at + 1), "loss": value} for at, value in enumerate(loss)]
        path.write_text(json.dumps({"log_history": history}))
    return path


def spikes(found: Findings) -> list[tuple[str, int | None]]:
    return [(each.sentence, each.step) for each in found if each.kind == "spike"]


def test_spikes_are_found_in_logs(store: RecordedStore, tmp_path: Path) -> None:
    logs = od.read_logs(logged(tmp_path / "trainer_state.json", every=10))
    [(sentence, step)] = spikes(od.findings(store, curves=logs))
    assert step == 4510
    assert sentence.startswith(
        "The training loss spikes at 1 logged value of 600 by the rule of OLMo-core, most at step 4,510: 9, "
    )
    each = logged(tmp_path / "state.json", every=1)
    [(sentence, step)] = spikes(od.findings(store, curves=od.read_logs(each).table))
    assert (sentence[:38], step) == ("The training loss spikes at 1 update o", 451)


def test_logs_of_several_runs_are_searched_for_the_stores_own(store: RecordedStore, tmp_path: Path) -> None:
    both = od.read_logs(
        logged(tmp_path / "a.csv", every=1, run="tiny"), logged(tmp_path / "b.csv", every=1, planted=300, run="other")
    )
    assert [step for _, step in spikes(od.findings(store, curves=both))] == [451]
    message = "the logs must be of org/tiny (got other); give read_logs() run='org/tiny'"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        od.findings(store, curves=od.read_logs(logged(tmp_path / "c.csv", every=1, run="other")))
    joined = od.join({"tiny": store, "second": store})
    named = od.read_logs(
        logged(tmp_path / "d.csv", every=1, run="tiny"), logged(tmp_path / "e.csv", every=1, planted=300, run="second")
    )
    told = spikes(od.findings(joined, curves=named))
    assert sorted((sentence.split(" spikes")[0], step) for sentence, step in told) == [
        ("The training loss of second", 301), ("The training loss of tiny", 451)
    ]  # fmt: skip


def test_what_would_read_too_much_is_not_searched_and_named(
    store: RecordedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = search_cost.cost(Grid(store))
    assert needed.features == STEPS * 3 * (LAYERS + 1) * FEATURES * 4  # sites, layers, features, bytes
    every = od.findings(store)
    assert every.note == "" and od.findings(store, most_bytes=needed.features + needed.series) == every
    read: list[str] = []
    original = type(store).array
    monkeypatch.setattr(
        type(store),
        "array",
        lambda self, group, name, **more: (read.append(name), original(self, group, name, **more))[1],
    )
    found = od.findings(store, most_bytes=0)
    assert "feature_rms" not in read and "cross_entropy" not in read
    assert re.fullmatch(
        r"Not searched: jumps, change points and settling, which would read \d+ MB; outlier features, which would read \d+ MB\.",
        found.note,
    )


def test_show_searches_logs_and_says_what_it_left_out(
    store: RecordedStore,
    command: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = logged(tmp_path / "trainer_state.json", every=1)
    shown = json.loads(command("show", str(store.path), "--logs", str(path), "--format", "json").out)
    assert [each["step"] for each in shown["findings"] if each["kind"] == "spike"] == [451]
    monkeypatch.setattr(sys.modules["olmo_dynamics.cli.show"], "_BOUND", 10)
    short = json.loads(command("show", str(store.path), "--format", "json").out)
    assert short["findings_note"].endswith("MB. --findings 5 searches everything.")
    assert "Not searched" not in command("show", str(store.path), "--findings", "3").out
    page = tmp_path / "report.html"
    assert command("report", str(store.path), "--logs", str(path), "--out", str(page), "--quiet").code == 0
    assert "The training loss spikes at 1 update of 600" in page.read_text(encoding="utf-8")
    other = command("show", str(store.path), "--logs", str(logged(tmp_path / "o.csv", every=1, run="other")))
    assert other.code == 2 and other.err.startswith("olmo-dyn: the logs must be of org/tiny (got other)")
