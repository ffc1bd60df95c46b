"""`olmo-dyn lab`: the notebooks, in JupyterLab."""

import click

from olmo_dynamics.cli.printing import quiet_option, remark


@click.command()
@click.option(
    "--out", default="olmo-lab", show_default=True, type=click.Path(), metavar="DIR", help="Where to put them."
)
@click.option("--no-open", is_flag=True, help="Only put the notebooks there.")
@quiet_option
def lab(out: str, no_open: bool, quiet: bool) -> None:
    """Put the notebooks in DIR and open JupyterLab on them. A notebook already there is left as you changed it.

    \b
    Examples:
      olmo-dyn lab
      olmo-dyn lab --out study --no-open
    """
    from olmo_dynamics.experiments.lab import open_lab, place_notebooks

    placed = place_notebooks(out)
    remark(f"{len(placed)} notebooks put in {out}" if placed else f"{out} has all the notebooks already", quiet)
    for path in placed:
        click.echo(str(path))
    if not no_open:
        open_lab(out)
