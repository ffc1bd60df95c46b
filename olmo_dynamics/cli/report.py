"""`olmo-dyn report`: a page of linked plots."""

import click

from olmo_dynamics.cli.printing import format_option, print_facts, quiet_option


@click.command()
@click.argument("store", type=click.Path())
@click.option("--out", default="report.html", show_default=True, type=click.Path(), metavar="FILE", help="The page.")
@format_option("table", "json")
@quiet_option
def report(store: str, out: str, style: str, quiet: bool) -> None:
    """Write one self-contained HTML page of linked plots of STORE; it opens with no network.

    \b
    Examples:
      olmo-dyn report olmo2-1b.zarr
      olmo-dyn report olmo2-1b.zarr --out olmo2-1b.html
    """
    from olmo_dynamics.frames import open_store
    from olmo_dynamics.reporting import write_report

    written = write_report(open_store(store), out)
    print_facts({"report": str(written)}, style)
