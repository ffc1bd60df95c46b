"""`olmo-dyn collect` beside others of its kind, and before weights that are not what was published."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from olmo_dynamics.checkpoints import hub as checkpoints_hub
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect
from olmo_dynamics.frames import open_store
from olmo_dynamics.probes import BUILT_IN
from olmo_dynamics.progress import Progress
from tests.cli.test_jobs import submit
from tests.conftest import REVISIONS
from tests.hub import Fault, LocalHub
from tests.runs import edit_config

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


def test_two_tasks_of_a_job_array_at_once_make_the_store_of_one_run(
    run: Run, tiny_run: Path, whole: Path, tmp_path: Path
) -> None:
    out, script, logs = tmp_path / "s.zarr", tmp_path / "collect.sbatch", tmp_path / "logs"
    given = ["--tasks", "2", "--script", str(script), "--logs", str(logs), str(tiny_run), "--out", str(out), *OPTIONS]
    assert run("jobs", "slurm", *given)[0] == 0
    assert [task.wait(timeout=200) for task in submit(script)] == [0, 0]
    said = {log.name: log.read_text(encoding="utf-8").split() for log in logs.iterdir()}
    assert {name: words[:2] for name, words in said.items()} == {
        "olmo-dyn-7-1.log": ["store", str(out)], "olmo-dyn-7-2.log": ["store", str(out)],
    }  # fmt: skip
    assert ["missing", "0"] in [words[-2:] for words in said.values()]  # the one that ends last sees all revisions
    assert open_store(out).done == set(REVISIONS)
    assert_same(out, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collect.sbatch", "logs", "s.zarr"]


def test_sigterm_ends_a_task_with_its_finished_revisions_kept_and_it_continues(
    run: Run, tiny_run: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, script, log = tmp_path / "s.zarr", tmp_path / "collect.sbatch", tmp_path / "logs" / "olmo-dyn-7-1.log"
    with LocalHub() as hub:
        hub.add_repo(REPO, {name: tiny_run / name for name in REVISIONS})
        hub.total_rate = 150_000  # bytes per second, about those of one revision
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        given = ["--tasks", "1", "--script", str(script), "--logs", str(log.parent), REPO, "--out", str(out), *OPTIONS]
        assert run("jobs", "slurm", *given)[0] == 0
        [task] = submit(script)
        while task.poll() is None and not (out.exists() and open_store(out).done):
            time.sleep(0.05)
        task.send_signal(signal.SIGTERM)
        assert task.wait(timeout=60) == 130
        interrupted = "interrupted; finished work is kept; run the same command again to continue"
        assert log.read_text(encoding="utf-8") == f"\nolmo-dyn: {interrupted}\n"
        assert 1 <= len(open_store(out).done) < len(REVISIONS)
        assert open_store(out).check().damages == ()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["collect.sbatch", "logs", "s.zarr"]
        hub.total_rate = None
        monkeypatch.setattr(checkpoints_hub, "HubSource", partial(HubSource, endpoint=hub.endpoint))
        assert run("collect", REPO, "--out", str(out), *OPTIONS, "--shard", "1/1")[0] == 0
    assert_same(out, whole)


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


def test_a_native_run_reads_bare_token_files_and_a_tokenizer_from_elsewhere(
    run: Run, shared: Path, tiny_run: Path, tmp_path: Path
) -> None:
    native = shared / "data" / "native"
    for name, start in (("a.npy", 0), ("b.npy", 100)):
        np.fromfile(native / "tokens" / "train.npy", np.uint16)[start : start + 64].tofile(tmp_path / name)
    options = ("--batch", "4x32", "--record", "loss", "--revisions", "all:last1", "-q")
    files = ("--tokens", str(tmp_path / "a.npy"), "--tokens", str(tmp_path / "b.npy"))
    code, _, err = run(
        "collect", str(native / "olmo" / "tiny-olmo2"), "--out", str(tmp_path / "ids.zarr"), *files, *options
    )
    assert (code, err) == (0, "")
    probe = open_store(tmp_path / "ids.zarr").probe()
    ids = np.fromfile(native / "tokens" / "train.npy", np.uint16)
    assert probe["token_id"].ravel().tolist() == [*ids[:64], *ids[100:164]]
    tokenizer = ("--tokenizer", str(tiny_run / "main"))
    code, _, err = run(
        "collect", str(native / "olmo" / "tiny-olmo2"), "--out", str(tmp_path / "text.zarr"), *tokenizer, *options
    )
    assert (code, err) == (0, "")
    losses = open_store(tmp_path / "text.zarr").table("loss")
    assert losses["bits_per_byte"].is_finite().all() and losses["domain"].to_list() == list(BUILT_IN[:4])


HOSTILE = {
    "num_hidden_layers": (2**32, "num_hidden_layers must be at most 10000 (got 4294967296); correct the config"),
    "layer_types": (
        [["a"]],
        "layer_types must be a list of text, one for each layer (got [['a']]); correct the config",
    ),
    "rope_parameters": (
        {"full_attention": 3},
        "rope_parameters.full_attention must be an object (got 3); correct the config",
    ),
}


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_config_is_one_line_and_its_weights_are_measured(
    key: str, run: Run, tiny_run: Path, tmp_path: Path
) -> None:
    value, message = HOSTILE[key]
    shutil.copytree(tiny_run / "main", tmp_path / "run" / "main")
    edit_config(tmp_path / "run" / "main", **{key: value, "note\ud800": "\ud800"})
    given = ("collect", str(tmp_path / "run"), "--out", str(tmp_path / "s.zarr"), "-q")
    assert run(*given) == (
        2,
        "",
        f"olmo-dyn: main: {message}; or record parameters only, which needs no forward pass\n",
    )
    assert run(*given, "--record", "parameters")[0] == 0
    assert open_store(tmp_path / "s.zarr").table("parameters").height == 25


def test_a_revision_that_does_not_fit_is_named_and_the_others_are_shown(
    run: Run, tiny_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    odd, out = REVISIONS[1], str(tmp_path / "s.zarr")
    edit_config(tmp_path / "run" / odd, vocab_size=321)
    code, printed, said = run("collect", str(tmp_path / "run"), "--out", out, *OPTIONS)
    assert (code, printed, said.count("\n")) == (2, "", 1)
    assert said.startswith(
        f"olmo-dyn: 1 of 4 revisions cannot be measured ({odd}), the others are in {out}; last reason: {odd}: "
    )
    shown = run("show", out)[1].splitlines()
    assert [line.split() for line in shown if line.startswith(("done", "missing"))] == [
        ["done", "3", "revisions"],
        ["missing", "1", "revision:", odd],
    ]


def test_the_plan_names_the_compute_dtype(run: Run, tiny_run: Path, tmp_path: Path) -> None:
    given = ("collect", str(tiny_run), "--out", str(tmp_path / "s.zarr"), "--dry-run", *OPTIONS)
    assert json.loads(run(*given, "--format", "json")[1])["dtype"] == "float32"
    assert "dtype      bfloat16 (of the forward pass)" in run(*given, "--dtype", "bfloat16")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--spectra", "top"), "--spectra needs --record spectra; add it, or leave --spectra out"),
        (("--sketch-size", "64"),
         "--sketch-size needs --record sketches or --record optimizer; add it, or leave --sketch-size out"),
        (("--max-memory", "0"), "--max-memory must be at least one byte; got '0'"),
        (("--shard", "3/2"), "--shard must be K/N such as 2/8, K from 1 to N; got '3/2'"),
        (("--batch", "8"), "--batch must be BxT such as 8x512 (windows x tokens, T at least 2); got '8'"),
    ],
)  # fmt: skip
def test_options_are_named_as_they_are_typed(options: tuple[str, str], message: str, run: Run, tmp_path: Path) -> None:
    given = ("collect", str(tmp_path), "--out", str(tmp_path / "s.zarr"), "--record", "loss", *options)
    assert run(*given) == (2, "", f"olmo-dyn: {message}\n")


@pytest.mark.parametrize(
    ("absent", "given", "message"),
    [
        ("ray", ("{run}", "--out", "{out}", "--engine", "ray"),
         "--engine ray needs Ray, which is not installed; pip install 'olmo-dynamics[ray]'"),
        ("obstore", ("{run}", "--out", "s3://bucket/s.zarr"),
         's3://bucket needs obstore; pip install "olmo-dynamics[remote]"'),
        ("obstore", ("s3://bucket/run", "--out", "{out}"),
         's3://bucket needs obstore; pip install "olmo-dynamics[remote]"'),
    ],
)  # fmt: skip
def test_an_extra_that_is_absent_is_named(
    absent: str, given: tuple[str, ...], message: str, run: Run, tiny_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for module in (absent, f"{absent}.store"):
        monkeypatch.setitem(sys.modules, module, None)
    places = {"run": tiny_run, "out": tmp_path / "s.zarr"}
    assert run("collect", *(each.format(**places) for each in given)) == (2, "", f"olmo-dyn: {message}\n")
    assert list(tmp_path.iterdir()) == []
