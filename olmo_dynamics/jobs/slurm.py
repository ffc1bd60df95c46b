"""A SLURM job array over `olmo-dyn collect --shard K/N`: one script, one task for each part of the revisions.

Each task runs the same command in the background of its script, so that the script can pass signals on: SIGTERM (preemption,
`scancel`) ends the task with all finished revisions kept, and SIGUSR1, which SLURM sends shortly before the time limit, ends
it and puts it back in the queue. A task that runs again continues.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from olmo_dynamics.errors import OptionError

_BEFORE_THE_LIMIT = 120
"""Seconds before the time limit at which a task is ended and put back in the queue."""

_RUN = """
{command} --shard "$SLURM_ARRAY_TASK_ID/{tasks}" &
task=$!
again=
trap 'kill -TERM "$task"' TERM
trap 'again=yes; kill -TERM "$task"' USR1

wait "$task"
status=$?
while kill -0 "$task" 2>/dev/null; do  # a signal ends the waiting before the task ends
    wait "$task"
    status=$?
done
if [ -n "$again" ] && [ "$status" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


@dataclass(frozen=True)
class SlurmJob:
    """A collection as a job array.

    Attributes:
        arguments: those of `olmo-dyn collect`, without `--shard`.
        tasks: the parts of the revisions, and of the array; at least 1.
        at_once: the most tasks that run at the same time; 0 for no limit.
        partition: the partition, or empty for the cluster's default.
        time: the time limit of one task as SLURM writes it, such as `04:00:00`; empty for the partition's default.
        logs: the folder with a log for each task.
        folder: the folder in which the tasks run, from which relative paths are read.
        extra: further options of sbatch, such as `--gres=gpu:1`.
        command: the program before `arguments`; by default this Python and its `olmo_dynamics`, so nodes must see them.

    Raises:
        OptionError: a number is too small, or a text has more than one line.
    """

    arguments: Sequence[str]
    tasks: int = 8
    at_once: int = 0
    partition: str = ""
    time: str = ""
    logs: Path = Path("logs")
    folder: Path = Path()
    extra: Sequence[str] = ()
    command: Sequence[str] = (sys.executable, "-m", "olmo_dynamics", "collect")

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise OptionError(f"tasks must be at least 1 (got {self.tasks})", option="tasks")
        if self.at_once < 0:
            raise OptionError(f"at_once must be at least 0 (got {self.at_once})", option="at_once")
        for line in self._directives():
            if len(line.splitlines()) != 1:
                raise OptionError(f"an option of sbatch must be one line (got {line!r})")
        for option in self.extra:
            if not option.startswith("-"):
                raise OptionError(f"an option of sbatch must start with - (got {option!r})")

    def script(self) -> str:
        """The text of the script, for `sbatch`."""
        head = "#!/bin/bash\n# Measures a run by a job array: each task takes a part of the revisions.\n"
        directives = "".join(f"#SBATCH {line}\n" for line in self._directives())
        command = shlex.join([*self.command, *self.arguments])
        return head + "# A task that is stopped has lost nothing: run again, it continues.\n" + directives + _RUN.format(
            command=command, tasks=self.tasks
        )  # fmt: skip

    def _directives(self) -> list[str]:
        folder = self.folder.absolute()
        log = str(folder / self.logs).replace("%", "%%") + "/%x-%A-%a.log"
        given = {"--partition": self.partition, "--time": self.time}
        return [
            "--job-name=olmo-dyn",
            f"--array=1-{self.tasks}" + (f"%{self.at_once}" if self.at_once else ""),
            "--requeue",
            f"--signal=B:USR1@{_BEFORE_THE_LIMIT}",
            "--open-mode=append",
            f"--chdir={shlex.quote(str(folder))}",
            f"--output={shlex.quote(log)}",
            *(f"{name}={value}" for name, value in given.items() if value),
            *self.extra,
        ]
