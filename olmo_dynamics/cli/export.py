"""`olmo-dyn export`: a table for any other tool."""

import click

from olmo_dynamics.cli.printing import format_option, print_facts, quiet_option
from olmo_dynamics.cli.sharing.storage import allow_http_option


@click.command()
@click.argument("store", type=click.Path())
@click.argument("table")
@click.option("--out", required=True, type=click.Path(), metavar="FILE", help="FILE.parquet or FILE.csv.")
@allow_http_option
@format_option("table", "json")
@quiet_option
def export(store: str, table: str, out: str, style: str, quiet: bool) -> None:
    """Write one TABLE of STORE (parameters, activations, loss, …, or a group of your own) to a Parquet or CSV file.

    \b
    Examples:
      olmo-dyn export olmo2-1b.zarr parameters --out parameters.parquet
      olmo-dyn export olmo2-1b.zarr parameters.element_quantile --out quantiles.csv
    """
    from olmo_dynamics.frames import export as write_table
    from olmo_dynamics.frames import open_store

    written = write_table(open_store(store), table, out)
    print_facts({"table": table, "file": str(written)}, style)
