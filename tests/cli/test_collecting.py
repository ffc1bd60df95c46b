"""`olmo-dyn collect` beside others of its kind, and before weights that are not what was published."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from olmo_dynamics.checkpoints import hub as checkpoints_hub
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.frames import open_store
from olmo_dynamics.progress import Progress
from tests.conftest import REVISIONS
from tests.hub import Fault, LocalHub

REPO = "allenai/tiny"
OPTIONS = ("--batch", "2x16", "--record", "parameters,loss", "-q")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "s.zarr"
    collect(tiny_run, out=out, batch="2x16", record=("parameters", "loss"), progress=Progress())
    return out


def assert_same(out: Path, whole: Path) -> None:
    found, wanted = open_store(out), open_store(whole)
    assert found.groups == wanted.groups == ("parameters", "loss")
    for group in wanted.groups:
        assert found.table(group).equals(wanted.table(group)), group


def test_two_shards_at_once_make_the_store_of_one_run(tiny_run: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    command = [sys.executable, "-m", "olmo_dynamics", "collect", str(tiny_run), "--out", str(out), *OPTIONS, "--shard"]
    both = [subprocess.Popen([*command, shard], stderr=subprocess.PIPE, text=True) for shard in ("1/2", "2/2")]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")
    assert open_store(out).done == set(REVISIONS)
    assert_same(out, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]


def test_who_would_write_all_of_a_store_while_a_shard_does_is_refused(
    run: Run, tiny_run: Path, whole: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "s.zarr")
    assert run("collect", str(tiny_run), "--out", out, *OPTIONS, "--shard", "1/2")[0] == 0
    done = open_store(out).done
    with open_store(out, mode="a").lock("1/2"):
        code, _, said = run("collect", str(tiny_run), "--out", out, *OPTIONS)
    assert code == 2 and said.count("\n") == 1 and "is being written by process" in said
    assert open_store(out).done == done and len(done) == 2
    assert run("collect", str(tiny_run), "--out", out, *OPTIONS)[0] == 0
    assert_same(Path(out), whole)


def test_weights_that_are_not_what_was_published_leave_their_revision_out(
    run: Run, tiny_run: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "s.zarr")
    spoilt = REVISIONS[1]
    with LocalHub() as hub:
        monkeypatch.setattr(checkpoints_hub, "HubSource", partial(HubSource, endpoint=hub.endpoint))
        hub.add_repo(REPO, {name: tiny_run / name for name in REVISIONS})
        weights = hub.repositories[REPO].branches[spoilt].files["model.safetensors"]
        fault = hub.add_fault(Fault("wrong_payload", weights.sha256, host="cdn", after=1, times=None))  # not the header
        code, printed, said = run("collect", REPO, "--out", out, *OPTIONS)
        assert fault.struck > 0
        assert (code, printed, said.count("\n")) == (2, "", 1)
        assert said.startswith(f"olmo-dyn: 1 of 4 revisions cannot be measured ({spoilt}), the others are in {out}")
        assert f"should have sha256 {weights.sha256[:12]}" in said
        store = open_store(out)
        assert store.done == set(REVISIONS) - {spoilt}
        assert all(spoilt not in store.table(group)["revision"].to_list() for group in store.groups)
        hub.faults.clear()
        assert run("collect", REPO, "--out", out, *OPTIONS)[0] == 0
    assert_same(Path(out), whole)
