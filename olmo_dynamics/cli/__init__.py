"""The command line, `olmo-dyn`: one file per noun, each command one library call.

    $ olmo-dyn revisions allenai/OLMo-2-0425-1B --select stage1:log24
    $ olmo-dyn collect allenai/OLMo-2-0425-1B --revisions stage1:log24 --out olmo2-1b.zarr
    $ olmo-dyn report olmo2-1b.zarr

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 2 the user can fix it (one line), 1 a bug (a
traceback), 130 interrupted with all finished work kept.
"""

import os
import sys
from contextlib import suppress

import click

from olmo_dynamics.cli.audit import audit
from olmo_dynamics.cli.collect import collect
from olmo_dynamics.cli.compact import compact
from olmo_dynamics.cli.demo import demo
from olmo_dynamics.cli.displacement import displacement
from olmo_dynamics.cli.evaluate import evaluate
from olmo_dynamics.cli.export import export
from olmo_dynamics.cli.help_sections import SectionedGroup
from olmo_dynamics.cli.jobs import jobs
from olmo_dynamics.cli.lab import lab
from olmo_dynamics.cli.report import report
from olmo_dynamics.cli.revisions import revisions
from olmo_dynamics.cli.runs import runs
from olmo_dynamics.cli.sharing.copy import copy
from olmo_dynamics.cli.show import show
from olmo_dynamics.cli.training.batches import batches
from olmo_dynamics.cli.training.fork import fork
from olmo_dynamics.cli.watch import watch
from olmo_dynamics.errors import OlmoDynamicsError
from olmo_dynamics.settings import launched, stop_as_interrupted, wait_without_spinning

INTERRUPTED = 130

SECTIONS = {
    "Begin": ("demo", "lab"),
    "Find a run": ("runs", "revisions", "audit"),
    "Measure it": ("collect", "evaluate", "jobs", "compact", "copy"),
    "Look at it": ("show", "report", "watch", "export", "displacement"),
    "Train on": ("fork", "batches"),
}
"""The commands by purpose, as the help lists them."""


@click.group(
    cls=SectionedGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="olmo-dynamics", prog_name="olmo-dyn")
def cli() -> None:
    """Watch a language model being trained.

    SOURCE is a Hugging Face repo id (allenai/OLMo-2-0425-1B) or a folder whose sub-folders are revisions.

    \b
    Examples:
      olmo-dyn demo                                        a whole small study, offline, in a minute
      olmo-dyn revisions allenai/OLMo-2-0425-1B            what exists
      olmo-dyn audit allenai/OLMo-2-0425-1B                what is wrong with it
      olmo-dyn collect allenai/OLMo-2-0425-1B \\
          --revisions stage1:log24 --out olmo2-1b.zarr     measure 24 of them
      olmo-dyn report olmo2-1b.zarr                        a page of linked plots
      olmo-dyn fork cache/demo/run@step195-tokens199680 \\
          --data cache/demo/corpus/train.npy \\
          --out forks/same --steps 40                      train on from there
    """


for command in (
    runs,
    revisions,
    audit,
    collect,
    evaluate,
    compact,
    copy,
    show,
    report,
    watch,
    export,
    displacement,
    fork,
    batches,
    jobs,
    demo,
    lab,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; the only place that turns exceptions into exit codes."""
    wait_without_spinning()
    try:
        cli.main(prog_name="olmo-dyn", standalone_mode=False)
    except OlmoDynamicsError as error:
        _stop("; ".join([getattr(error, "typed", str(error)), *getattr(error, "__notes__", ())]), 2)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _stop(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _stop("interrupted; finished work is kept; run the same command again to continue", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def start() -> None:
    """Run `main` and end the process with it, without waiting for threads that still wait for an unresponsive host."""
    code: str | int | None = 0
    stop_as_interrupted()
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    if code == 0 or not isinstance(code, int):
        sys.exit(code)
    with suppress(OSError, ValueError):  # their reader may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _stop(message: str, code: int) -> None:
    if not launched().rank:  # of several processes, only the first prints
        click.echo(f"olmo-dyn: {message}", err=True)
    sys.exit(code)
