"""`olmo-dyn demo`: a whole small study, offline."""

import click

from olmo_dynamics.cli.printing import format_option, print_facts, quiet_option


@click.command()
@click.option(
    "--out",
    default="cache/demo",
    show_default=True,
    type=click.Path(),
    metavar="DIR",
    help="The folder of the results.",
)
@format_option("table", "json")
@quiet_option
def demo(out: str, style: str, quiet: bool) -> None:
    """Pretrain a tiny OLMo 2 on this machine's own Python sources, collect its revisions, fork it, write the report.

    Offline, a minute on two cores. Finished parts are reused: run the command again to continue.

    \b
    Examples:
      olmo-dyn demo
      olmo-dyn demo --out study/demo
    """
    from olmo_dynamics.experiments.demo import run_demo

    made = run_demo(out, quiet=quiet)
    print_facts(
        {"run": str(made.run), "fork": str(made.fork), "store": str(made.store), "report": str(made.report)}, style
    )
