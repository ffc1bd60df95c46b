"""`olmo-dyn jobs`: scripts that spread a collection over the nodes of a cluster."""

from pathlib import Path

import click

from olmo_dynamics.cli.collect import collect
from olmo_dynamics.cli.printing import format_option, print_facts
from olmo_dynamics.errors import OptionError


@click.group()
def jobs() -> None:
    """Write scripts that spread a collection over the nodes of a cluster.

    \b
    Example:
      olmo-dyn jobs slurm --tasks 8 allenai/OLMo-2-0425-1B --revisions stage1:log64 --out /shared/1b.zarr
    """


@jobs.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--tasks", default=8, show_default=True, metavar="N", help="Tasks of the array, each with a part of the revisions."
)
@click.option("--at-once", default=0, metavar="M", help="At most M tasks at the same time. Default: no limit.")
@click.option("--partition", default="", metavar="NAME", help="The partition. Default: the cluster's.")
@click.option("--time", default="", metavar="HH:MM:SS", help="The time limit of one task. Default: the partition's.")
@click.option("--sbatch", "extra", multiple=True, metavar="OPTION", help="A further option of sbatch, such as --gres=gpu:1; "
              "may be repeated.")  # fmt: skip
@click.option("--logs", default="logs", show_default=True, type=click.Path(), metavar="DIR", help="The folder with a log for "
              "each task.")  # fmt: skip
@click.option("--script", default="collect.sbatch", show_default=True, type=click.Path(), metavar="FILE", help="The script to "
              "write.")  # fmt: skip
@format_option("table", "json")
@click.argument(
    "arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="SOURCE --out STORE [COLLECT OPTIONS]"
)
def slurm(script: str, logs: str, style: str, arguments: tuple[str, ...], **given: object) -> None:
    """Write a SLURM script that measures SOURCE by a job array, all tasks into one store.

    What follows SOURCE are the options of `olmo-dyn collect`. A task that is preempted, or that reaches its time limit,
    continues when it runs again. The store must lie where all nodes see it.

    \b
    Examples:
      olmo-dyn jobs slurm --tasks 16 --at-once 4 --time 04:00:00 allenai/OLMo-2-1124-7B \\
          --revisions stage1:log64 --out /shared/7b.zarr
      olmo-dyn jobs slurm --tasks 8 --partition gpu --sbatch --gres=gpu:1 allenai/OLMo-2-0425-1B \\
          --revisions all --device cuda --out /shared/1b.zarr
      sbatch collect.sbatch
    """
    from olmo_dynamics.files import write_atomic
    from olmo_dynamics.jobs import SlurmJob

    _check(arguments)
    job = SlurmJob(arguments, logs=Path(logs), **given)  # type: ignore[arg-type]
    path = Path(script)
    Path(logs).mkdir(parents=True, exist_ok=True)
    write_atomic(path, job.script().encode(), partial=path.with_name(f"{path.name}.part"))
    print_facts({"script": script, "tasks": job.tasks, "logs": logs, "submit": f"sbatch {script}"}, style)


def _check(arguments: tuple[str, ...]) -> None:
    """Refuse what `olmo-dyn collect` would refuse, and what the script says by itself."""
    given = collect.make_context("olmo-dyn collect", list(arguments)).params
    if given["shard"]:
        raise OptionError(f"--shard must be left out, since each task has its own (got {given['shard']})")
    if given["engine"] != "local":
        raise OptionError(f"--engine must be local in a job array, whose tasks share the work (got {given['engine']})")
    if given["dry_run"]:
        raise OptionError(
            "--dry-run must be left out, since a job measures; run `olmo-dyn collect --dry-run` by itself"
        )
