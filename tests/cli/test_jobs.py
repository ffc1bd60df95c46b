"""The job array: its script, run as SLURM runs it, for every task, with its signals."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.jobs import SlurmJob
from tests.cli.conftest import Outcome

SLEEPER = """
import pathlib, signal, sys, time
def stop(number, frame):
    time.sleep(0.2)  # the revision in work is given up, the lock is released
    pathlib.Path(sys.argv[1], "ended").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], "begun").touch()
time.sleep(600)
"""


def directives(script: Path) -> dict[str, str]:
    """The options that sbatch reads in the head of a script."""
    lines = script.read_text(encoding="utf-8").splitlines()
    found = [shlex.split(line.removeprefix("#SBATCH "))[0] for line in lines if line.startswith("#SBATCH ")]
    return dict(each.partition("=")[::2] for each in found)


def submit(script: Path) -> list[subprocess.Popen[bytes]]:
    """All tasks of the array at once, as sbatch runs them."""
    options = directives(script)
    first, last = map(int, options["--array"].partition("%")[0].split("-"))
    running = []
    for task in range(first, last + 1):
        log = options["--output"].replace("%x", options["--job-name"]).replace("%A", "7").replace("%a", str(task))
        with Path(log).open("ab") as file:
            environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": f"7{task}"}
            started = subprocess.Popen(
                ["bash", script], env=environment, cwd=options["--chdir"], stdout=file, stderr=subprocess.STDOUT
            )
        running.append(started)
    return running


def test_the_script_says_all_that_sbatch_needs(run: Callable[..., Outcome], tmp_path: Path) -> None:
    given = ["--tasks", "2", "--at-once", "2", "--partition", "gpu", "--time", "04:00:00", "--sbatch", "--gres=gpu:1"]
    script, logs = tmp_path / "collect.sbatch", tmp_path / "logs of tasks"
    written = run("jobs", "slurm", *given, "--script", str(script), "--logs", str(logs), "run", "--out", "s.zarr")
    assert written.out.splitlines()[-1].split(maxsplit=1) == ["submit", f"sbatch {script}"]
    assert logs.is_dir()
    assert directives(script) == {
        "--job-name": "olmo-dyn", "--array": "1-2%2", "--requeue": "", "--signal": "B:USR1@120", "--open-mode": "append",
        "--chdir": str(Path.cwd()), "--output": f"{logs}/%x-%A-%a.log", "--partition": "gpu", "--time": "04:00:00",
        "--gres": "gpu:1",
    }  # fmt: skip


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_a_signal_ends_the_task_and_the_time_limit_queues_it_again(
    number: int, requeued: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/bash\necho "$@" > "{tmp_path}/requeued"\n', encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = SlurmJob([str(tmp_path)], tasks=1, logs=tmp_path, folder=tmp_path, command=(sys.executable, "-c", SLEEPER))
    script = tmp_path / "script"
    script.write_text(job.script(), encoding="utf-8")
    [task] = submit(script)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    task.send_signal(number)
    assert task.wait() == 130
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "requeued").exists() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text(encoding="utf-8") == "requeue 71\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--tasks", "0", "run", "--out", "s.zarr"], "--tasks must be at least 1 (got 0)"),
        (["--at-once", "-1", "run", "--out", "s.zarr"], "--at-once must be at least 0 (got -1)"),
        (["--sbatch", "gres", "run", "--out", "s.zarr"], "an option of sbatch must start with - (got 'gres')"),
        (
            ["--time", "1\n#SBATCH --wrap=x", "run", "--out", "s.zarr"],
            r"an option of sbatch must be one line (got '--time=1\n#SBATCH --wrap=x')",
        ),
        (
            ["run", "--out", "s.zarr", "--shard", "1/2"],
            "--shard must be left out, since each task has its own (got 1/2)",
        ),
        (
            ["run", "--out", "s.zarr", "--dry-run"],
            "--dry-run must be left out, since a job measures; run `olmo-dyn collect --dry-run` by itself",
        ),
        (
            ["run", "--out", "s.zarr", "--recrd", "loss"],
            "No such option '--recrd'. (Did you mean one of: '--record', '--spectra', '--threads'?)",
        ),
    ],
)
def test_what_cannot_run_is_refused(
    arguments: list[str], expected: str, run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("jobs", "slurm", *arguments) == (2, "", f"olmo-dyn: {expected}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_job_has_at_least_one_task() -> None:
    with pytest.raises(OptionError, match=r"^tasks must be at least 1 \(got 0\)$"):
        SlurmJob(["run"], tasks=0)
