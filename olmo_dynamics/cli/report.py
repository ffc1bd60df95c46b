"""`olmo-dyn report`: a page of linked plots."""

import click

from olmo_dynamics.cli.printing import format_option, print_facts, quiet_option


@click.command()
@click.argument("store", type=click.Path())
@click.option("--out", default="report.html", show_default=True, type=click.Path(), metavar="FILE", help="The page.")
@click.option(
    "--fork", "forks", multiple=True, type=click.Path(), metavar="DIR", help="A fork of the run, drawn beside it."
)
@format_option("table", "json")
@quiet_option
def report(store: str, out: str, forks: tuple[str, ...], style: str, quiet: bool) -> None:
    """Write one self-contained HTML page of linked plots of STORE; it opens with no network.

    Groups of your own recorders are drawn from what the store declares of them. For a run made by olmo-dyn fork, the page
    names its parent; with --fork, a run and its forks are drawn from the step where they part.

    \b
    Examples:
      olmo-dyn report olmo2-1b.zarr
      olmo-dyn report olmo2-1b.zarr --out olmo2-1b.html
      olmo-dyn report demo/store.zarr --fork demo/fork
    """
    from olmo_dynamics.frames import open_store
    from olmo_dynamics.reporting import lineage, write_report

    opened = open_store(store)
    written = write_report(opened, out, forks=forks)
    print_facts({"report": str(written)} | lineage(opened), style)
